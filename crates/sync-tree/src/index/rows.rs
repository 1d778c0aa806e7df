//! Adds many rows to a table by few statements.
//!
//! What SQLite does around a row costs as much as the row: it begins and ends the statement, and opens the table and its indexes, after
//! which it knows nothing of where the row before went. A statement that adds several rows does that once.
//!
//! If a row collides with what is there, those before it are added and neither it nor those behind it (`OR FAIL`). If something else
//! goes wrong, none of a statement's rows is added.

use rusqlite::{
    CachedStatement, Connection, Statement, ffi,
    types::{ToSqlOutput, ValueRef},
};

/// So many rows are added by one statement. Twice as many are hardly faster.
pub(crate) const AT_ONCE: usize = 16;

/// What a row with `N` columns has in them.
pub trait Row<const N: usize> {
    /// The values, in the order of the columns.
    fn values(&self) -> [ValueRef<'_>; N];
}

/// The statements that add rows, as text.
#[derive(Debug, Clone)]
pub struct Additions {
    one: String,
    many: String,
}

impl Additions {
    /// Those that add rows with `N` columns to `table`. If the columns are not all in their order, their names follow its name.
    #[must_use]
    pub fn to<const N: usize>(table: &str) -> Self {
        let row = format!("({})", ["?"; N].join(","));
        let into =
            |rows: usize| format!("INSERT OR FAIL INTO {table} VALUES {}", vec![&*row; rows].join(","));
        Self { one: into(1), many: into(AT_ONCE) }
    }

    /// Has them at hand for many rows: to find a statement each time is a tenth of what adding a row costs.
    ///
    /// # Errors
    /// The database failed.
    pub fn on<'a, const N: usize>(&'a self, db: &'a Connection) -> rusqlite::Result<Adder<'a, N>> {
        Ok(Adder { db, one: db.prepare_cached(&self.one)?, many: None, text: self })
    }
}

/// Adds rows to a table.
pub struct Adder<'a, const N: usize> {
    db: &'a Connection,
    one: CachedStatement<'a>,
    /// Once there were enough rows for it.
    many: Option<CachedStatement<'a>>,
    text: &'a Additions,
}

impl<const N: usize> std::fmt::Debug for Adder<'_, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Adder")
    }
}

impl<const N: usize> Adder<'_, N> {
    /// Adds a row. Answers false, and adds nothing, if it collides with what is there.
    ///
    /// # Errors
    /// The database failed.
    pub fn add(&mut self, row: &impl Row<N>) -> rusqlite::Result<bool> {
        added(execute(&mut self.one, row))
    }

    /// Adds rows up to the first that collides with what is there. Answers how many were added.
    ///
    /// # Errors
    /// The database failed.
    pub fn add_each(&mut self, rows: &[impl Row<N>]) -> rusqlite::Result<usize> {
        let (parts, rest) = rows.as_chunks::<AT_ONCE>();
        let mut count = 0;
        for part in parts {
            let of_part = self.add_part(part)?;
            count += of_part;
            if of_part < part.len() {
                return Ok(count);
            }
        }
        for row in rest {
            if !self.add(row)? {
                return Ok(count);
            }
            count += 1;
        }
        Ok(count)
    }

    fn add_part(&mut self, rows: &[impl Row<N>; AT_ONCE]) -> rusqlite::Result<usize> {
        let many = match &mut self.many {
            Some(many) => many,
            none => none.insert(self.db.prepare_cached(&self.text.many)?),
        };
        bind(many, rows)?;
        let all = added(many.raw_execute())?;
        // Those that came before it are said to be changes of the statement that failed.
        Ok(if all { rows.len() } else { usize::try_from(self.db.changes()).unwrap_or(usize::MAX) })
    }
}

/// Runs a statement with what a row has in its columns.
///
/// # Errors
/// The database failed.
pub fn execute<const N: usize>(statement: &mut Statement<'_>, row: &impl Row<N>) -> rusqlite::Result<()> {
    bind(statement, std::slice::from_ref(row))?;
    statement.raw_execute()?;
    Ok(())
}

fn bind<const N: usize>(statement: &mut Statement<'_>, rows: &[impl Row<N>]) -> rusqlite::Result<()> {
    let mut number = 0;
    for row in rows {
        for value in row.values() {
            number += 1;
            statement.raw_bind_parameter(number, ToSqlOutput::Borrowed(value))?;
        }
    }
    Ok(())
}

/// Whether all rows were added, or what one would have collided with is there.
fn added<T>(result: rusqlite::Result<T>) -> rusqlite::Result<bool> {
    const COLLISIONS: [i32; 3] =
        [ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ffi::SQLITE_CONSTRAINT_ROWID, ffi::SQLITE_CONSTRAINT_UNIQUE];
    match result {
        Ok(_) => Ok(true),
        Err(rusqlite::Error::SqliteFailure(error, _)) if COLLISIONS.contains(&error.extended_code) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    struct Pair(i64, String);

    impl Row<2> for Pair {
        fn values(&self) -> [ValueRef<'_>; 2] {
            [ValueRef::Integer(self.0), ValueRef::Text(self.1.as_bytes())]
        }
    }

    fn table() -> (Connection, Additions) {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE pairs (id INTEGER PRIMARY KEY, name TEXT NOT NULL, more INTEGER) STRICT;
             CREATE UNIQUE INDEX pairs_name ON pairs (name);",
        )
        .unwrap();
        (db, Additions::to::<2>("pairs (id, name)"))
    }

    fn rows(db: &Connection) -> HashMap<i64, String> {
        let mut rows = db.prepare("SELECT id, name FROM pairs").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn all_are_added_however_many_there_are() {
        let (db, additions) = table();
        let mut adder = additions.on(&db).unwrap();
        let mut next = 0;
        for count in (0..2 * AT_ONCE + 3).chain([1000]) {
            let new: Vec<Pair> = (next..next + count).map(|id| Pair(id as i64, format!("{id}"))).collect();
            assert_eq!(adder.add_each(&new).unwrap(), count);
            next += count;
            assert_eq!(rows(&db).len(), next);
        }
        assert!(rows(&db).iter().all(|(id, name)| *name == id.to_string()));
    }

    /// In each place of each part: by its id, by its name, and by what is in the same list.
    #[test]
    fn those_before_the_first_collision_are_added_and_no_others() {
        for count in [1, 2, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE] {
            for at in 0..count {
                let (id, name) = (at as i64, at.to_string());
                for there in [Some((id, "x")), Some((-1, &name)), Some((id, &name)), None] {
                    collides(count, at, there);
                }
            }
        }
    }

    fn collides(count: usize, at: usize, there: Option<(i64, &str)>) {
        let (db, additions) = table();
        let mut new: Vec<Pair> = (0..count).map(|id| Pair(id as i64, format!("{id}"))).collect();
        match there {
            Some(there) => assert_eq!(db.execute("INSERT INTO pairs VALUES (?, ?, 7)", there).unwrap(), 1),
            None if at == 0 => return,
            None => new[at].0 = 0,
        }
        let mut adder = additions.on(&db).unwrap();
        assert_eq!(adder.add_each(&new).unwrap(), at, "{there:?}, {at} of {count}");
        let mut expected: HashMap<i64, String> = new.drain(..at).map(|Pair(id, name)| (id, name)).collect();
        expected.extend(there.map(|(id, name)| (id, name.to_owned())));
        assert_eq!(rows(&db), expected, "{there:?}, {at} of {count}");
        // What is left goes on behind it.
        assert_eq!(adder.add_each(&new[1..]).unwrap(), count - at - 1, "{there:?}, {at} of {count}");
    }

    #[test]
    fn what_is_added_goes_with_its_transaction() {
        let (db, additions) = table();
        let new: Vec<Pair> = (0..40).map(|id| Pair(id % 30, format!("{id}"))).collect();
        let tx = db.unchecked_transaction().unwrap();
        assert_eq!(additions.on(&db).unwrap().add_each(&new).unwrap(), 30);
        drop(tx);
        assert!(rows(&db).is_empty());
        assert_eq!(additions.on(&db).unwrap().add_each(&new).unwrap(), 30);
        assert_eq!(rows(&db).into_keys().collect::<HashSet<_>>().len(), 30);
    }

    #[test]
    fn what_does_not_belong_into_a_column_is_no_collision() {
        struct Wrong;
        impl Row<2> for Wrong {
            fn values(&self) -> [ValueRef<'_>; 2] {
                [ValueRef::Integer(1), ValueRef::Null]
            }
        }
        let (db, additions) = table();
        let mut adder = additions.on(&db).unwrap();
        assert!(adder.add(&Wrong).is_err());
        assert!(adder.add_each(&[const { Wrong }; AT_ONCE]).is_err());
    }

    /// The disk is full somewhere among the rows of one statement.
    #[test]
    fn what_fails_midway_fails_as_a_whole() {
        let (db, additions) = table();
        let pages: i64 = db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        db.query_row(&format!("PRAGMA max_page_count = {}", pages + 5), [], |_| Ok(())).unwrap();
        let long: Vec<Pair> = (0..64).map(|id| Pair(id, format!("{id} {}", "x".repeat(1000)))).collect();
        let mut adder = additions.on(&db).unwrap();
        let tx = db.unchecked_transaction().unwrap();
        assert!(adder.add(&long[0]).unwrap());
        assert!(adder.add_each(&long[1..]).is_err());
        assert!(rows(&db).len() <= 1, "some rows of the statement are there");
        drop(tx);
        assert!(rows(&db).is_empty());
        assert_eq!(adder.add_each(&long[..3]).unwrap(), 3);
        assert_eq!(rows(&db).len(), 3);
    }

    #[test]
    fn another_failure_is_one() {
        let (db, additions) = table();
        db.execute_batch("DROP TABLE pairs; CREATE TABLE pairs (id INTEGER PRIMARY KEY, name TEXT);")
            .unwrap();
        let new: Vec<Pair> = (0..20).map(|id| Pair(id, format!("{id}"))).collect();
        let mut adder = additions.on(&db).unwrap();
        db.execute_batch("PRAGMA query_only = 1").unwrap();
        assert!(adder.add_each(&new).is_err());
        assert!(adder.add(&new[0]).is_err());
    }
}
