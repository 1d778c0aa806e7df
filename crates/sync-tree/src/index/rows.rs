//! Adds many rows to a table by few statements.
//!
//! What SQLite does around a row costs as much as the row: it begins and ends the statement, and opens the table and its indexes, after
//! which it knows nothing of where the row before went. A statement that adds several rows does that once.
//!
//! A statement that says which ids its rows get notes each page that it changes, for the case that it fails midway, and looks for each id
//! first. One that leaves the ids to SQLite does neither, and gets those behind the highest. So where the ids that rows have are these,
//! as they are in most of a new tree, they are not said.
//!
//! If a row collides with what is there, those before it are added and neither it nor those behind it (`OR FAIL`). If something else
//! goes wrong, some may be added, or SQLite has ended the whole transaction (a full disk): nobody goes on in it.

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
    next: Option<Next>,
}

/// For a table with ids.
#[derive(Debug, Clone)]
struct Next {
    /// Adds rows that get the ids behind the highest.
    many: String,
    /// Which one that is.
    highest: String,
}

impl Additions {
    /// Those that add rows with `N` columns to a table.
    #[must_use]
    pub fn to<const N: usize>(table: &str) -> Self {
        let row = placeholders(N);
        Self { one: insert(table, &row, 1), many: insert(table, &row, AT_ONCE), next: None }
    }

    /// The same for a table with ids (`INTEGER PRIMARY KEY`), which rows have in their first column; `others` are the columns behind
    /// it. `zeros` are columns that are 0 in all of these rows: what need not be bound costs half as much.
    #[must_use]
    pub fn with_ids<const N: usize>(table: &str, id: &str, others: &str, zeros: &[&str]) -> Self {
        let columns = [&[others], zeros].concat().join(", ");
        let row = |bound| format!("{}{}", placeholders(bound), ",0".repeat(zeros.len()));
        let into = format!("{table} ({id}, {columns})");
        let next = Next {
            many: insert(&format!("{table} ({columns})"), &row(N - 1), AT_ONCE),
            highest: format!("SELECT max({id}) FROM {table}"),
        };
        Self { one: insert(&into, &row(N), 1), many: insert(&into, &row(N), AT_ONCE), next: Some(next) }
    }

    /// Has them at hand for many rows: to find a statement each time is a tenth of what adding a row costs.
    ///
    /// # Errors
    /// The database failed.
    pub fn on<'a, const N: usize>(&'a self, db: &'a Connection) -> rusqlite::Result<Adder<'a, N>> {
        Ok(Adder { db, one: db.prepare_cached(&self.one)?, many: None, next: None, text: self })
    }
}

fn placeholders(columns: usize) -> String {
    vec!["?"; columns].join(",")
}

fn insert(into: &str, row: &str, rows: usize) -> String {
    format!("INSERT OR FAIL INTO {into} VALUES ({})", vec![row; rows].join("),("))
}

/// Adds rows to a table.
pub struct Adder<'a, const N: usize> {
    db: &'a Connection,
    one: CachedStatement<'a>,
    /// Once there were enough rows for it.
    many: Option<CachedStatement<'a>>,
    next: Option<CachedStatement<'a>>,
    text: &'a Additions,
}

impl<const N: usize> std::fmt::Debug for Adder<'_, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Adder")
    }
}

impl<'a, const N: usize> Adder<'a, N> {
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
    /// The database failed. Some of the rows may be there, and the transaction is of no use any more.
    pub fn add_each(&mut self, rows: &[impl Row<N>]) -> rusqlite::Result<usize> {
        let mut rest = rows;
        let mut highest = None;
        while !rest.is_empty() {
            let step = match &self.text.next {
                Some(next) if rest.len() >= AT_ONCE => {
                    let highest = match &mut highest {
                        Some(highest) => highest,
                        none => none.insert(highest_id(self.db, next)?),
                    };
                    step_behind(highest, rest)
                }
                _ if rest.len() >= AT_ONCE => Step::Many,
                _ => Step::One,
            };
            let (of, count) = match step {
                Step::One => (1, usize::from(self.add(&rest[0])?)),
                Step::Many => (AT_ONCE, self.add_many(&rest[..AT_ONCE])?),
                Step::Next => (AT_ONCE, self.add_next(&rest[..AT_ONCE])?),
            };
            rest = &rest[count..];
            if count < of {
                break;
            }
        }
        Ok(rows.len() - rest.len())
    }

    fn add_many(&mut self, rows: &[impl Row<N>]) -> rusqlite::Result<usize> {
        let many = at_hand(self.db, &mut self.many, &self.text.many)?;
        bind(many, rows, 0)?;
        let all = added(many.raw_execute())?;
        Ok(self.count_of(rows, all))
    }

    /// Adds rows whose ids come behind the highest, which is what they get.
    fn add_next(&mut self, rows: &[impl Row<N>]) -> rusqlite::Result<usize> {
        let Some(text) = &self.text.next else { return self.add_many(rows) };
        let next = at_hand(self.db, &mut self.next, &text.many)?;
        bind(next, rows, 1)?;
        let all = added(next.raw_execute())?;
        let count = self.count_of(rows, all);
        let got = self.db.last_insert_rowid();
        match rows[..count].last() {
            Some(last) if id_of(last) != got => Err(rusqlite::Error::IntegralValueOutOfRange(0, got)),
            _ => Ok(count),
        }
    }

    /// How many of the rows of the last statement are there.
    fn count_of(&self, rows: &[impl Row<N>], all: bool) -> usize {
        // Those that came before a collision are said to be changes of the statement that failed.
        let changes = || usize::try_from(self.db.changes()).unwrap_or(usize::MAX);
        if all { rows.len() } else { changes().min(rows.len()) }
    }
}

/// How the next rows are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// One of them.
    One,
    /// As many as are added at once.
    Many,
    /// The same, with the ids behind the highest.
    Next,
}

/// How to add the first of many rows, and what the highest id will be.
fn step_behind<const N: usize>(highest: &mut i64, rows: &[impl Row<N>]) -> Step {
    let first = id_of(&rows[0]);
    let follows = |pair: &[_]| id_of(&pair[0]).checked_add(1) == Some(id_of(&pair[1]));
    let are_in_a_row = rows[..AT_ONCE].windows(2).all(follows);
    let (step, last) = match (are_in_a_row, first.checked_sub(*highest)) {
        (true, Some(1)) => (Step::Next, id_of(&rows[AT_ONCE - 1])),
        // Those behind it come behind the highest then, if they are enough.
        (true, Some(2..)) if rows.len() > AT_ONCE => (Step::One, first),
        _ => (Step::Many, rows[..AT_ONCE].iter().map(id_of).max().unwrap_or(first)),
    };
    *highest = last.max(*highest);
    step
}

fn highest_id(db: &Connection, next: &Next) -> rusqlite::Result<i64> {
    let highest: Option<i64> = db.prepare_cached(&next.highest)?.query_row([], |row| row.get(0))?;
    Ok(highest.unwrap_or(0))
}

/// What a row has in its first column; it is a number.
fn id_of<const N: usize>(row: &impl Row<N>) -> i64 {
    match row.values()[0] {
        ValueRef::Integer(id) => id,
        _ => i64::MIN,
    }
}

fn at_hand<'s, 'a>(
    db: &'a Connection,
    place: &'s mut Option<CachedStatement<'a>>,
    text: &str,
) -> rusqlite::Result<&'s mut CachedStatement<'a>> {
    Ok(match place {
        Some(statement) => statement,
        none => none.insert(db.prepare_cached(text)?),
    })
}

/// Runs a statement with what a row has in its columns.
///
/// # Errors
/// The database failed.
pub fn execute<const N: usize>(statement: &mut Statement<'_>, row: &impl Row<N>) -> rusqlite::Result<()> {
    bind(statement, std::slice::from_ref(row), 0)?;
    statement.raw_execute()?;
    Ok(())
}

/// Binds what rows have in their columns, but for so many of the first.
fn bind<const N: usize>(
    statement: &mut Statement<'_>,
    rows: &[impl Row<N>],
    without: usize,
) -> rusqlite::Result<()> {
    let mut number = 0;
    for row in rows {
        for value in row.values().into_iter().skip(without) {
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

    use sync_testkit::rng::Rng;

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
        (db, Additions::with_ids::<2>("pairs", "id", "name", &["more"]))
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
        let others = db.query_row("SELECT count(*) FROM pairs WHERE more IS NOT 0", [], |row| row.get(0));
        assert_eq!(others, Ok(0));
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
        collides_with(table(), count, at, there);
        collides_with((table().0, Additions::to::<2>("pairs (id, name)")), count, at, there);
    }

    fn collides_with(
        (db, additions): (Connection, Additions),
        count: usize,
        at: usize,
        there: Option<(i64, &str)>,
    ) {
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

    /// In a row or with numbers left out, behind the highest or before it, with others there or none: each row has the id that was
    /// said.
    #[test]
    fn rows_have_their_ids_whatever_they_are() {
        let mut behind = 0;
        for seed in 0..400 {
            let mut rng = Rng::new(seed);
            let (db, additions) = table();
            let mut adder = additions.on(&db).unwrap();
            let mut expected = HashMap::new();
            if rng.chance(33) {
                let there = [-7, -1, 0, 5, 1_000][rng.below(5)];
                assert!(adder.add(&Pair(there, "there".to_owned())).unwrap());
                expected.insert(there, "there".to_owned());
            }
            for batch in 0..4 {
                let next = expected.keys().max().map_or(1, |id| id.saturating_add(1));
                let mut id = [-3, 0, 1, 2, 100, i64::MAX - 20, next][rng.below(7)];
                let mut new = Vec::new();
                for at in 0..rng.below(100) {
                    new.push(Pair(id, format!("{batch} {at}")));
                    id = id.saturating_add(if rng.chance(2) { [-9, 0, 2, 50][rng.below(4)] } else { 1 });
                }
                let mut all = expected.clone();
                let fit = |row: &&Pair| all.insert(row.0, row.1.clone()).is_none();
                let count = new.iter().take_while(fit).count();
                expected.extend(new[..count].iter().map(|row| (row.0, row.1.clone())));
                assert_eq!(adder.add_each(&new).unwrap(), count, "seed {seed}");
                assert_eq!(rows(&db), expected, "seed {seed}");
            }
            behind += usize::from(adder.next.is_some());
        }
        assert!((100..400).contains(&behind), "{behind} had ids behind the highest");
    }

    #[test]
    fn most_of_what_is_new_is_added_without_saying_its_ids() {
        let (db, additions) = table();
        let mut adder = additions.on(&db).unwrap();
        let new: Vec<Pair> = (500..600).map(|id| Pair(id, format!("{id}"))).collect();
        let mut highest = 40;
        let steps = [
            step_behind(&mut highest, &new),
            step_behind(&mut highest, &new[1..]),
            step_behind(&mut highest, &new[17..]),
        ];
        assert_eq!((steps, highest), ([Step::One, Step::Next, Step::Next], 532));
        assert_eq!(step_behind(&mut highest, &new), Step::Many);
        assert_eq!(step_behind(&mut highest, &new[100 - AT_ONCE..]), Step::Many, "behind a gap, and no more");
        assert_eq!(highest, 599);
        assert_eq!(adder.add_each(&new).unwrap(), 100);
        assert!(adder.next.is_some() && adder.many.is_none());
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
        struct Row2(i64, bool);
        impl Row<2> for Row2 {
            fn values(&self) -> [ValueRef<'_>; 2] {
                let value = if self.1 { ValueRef::Integer(self.0) } else { ValueRef::Null };
                [ValueRef::Integer(self.0), value]
            }
        }
        for first in [1, 5] {
            let (db, additions) = table();
            let mut adder = additions.on(&db).unwrap();
            let tx = db.unchecked_transaction().unwrap();
            assert!(adder.add(&Row2(first, false)).is_err());
            let rows_with = |wrong| (first..first + 40).map(|id| Row2(id, id != wrong)).collect::<Vec<_>>();
            assert!(adder.add_each(&rows_with(first + 20)).is_err());
            drop(tx);
            assert!(rows(&db).is_empty());
            assert_eq!(adder.add_each(&rows_with(-1)).unwrap(), 40);
        }
    }

    /// The disk is full somewhere among the rows of one statement, which says ids or does not.
    #[test]
    fn nothing_is_left_of_what_fails_midway() {
        fails_midway(0);
        fails_midway(7);
    }

    fn fails_midway(step: i64) {
        let (db, additions) = table();
        let pages: i64 = db.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        db.query_row(&format!("PRAGMA max_page_count = {}", pages + 5), [], |_| Ok(())).unwrap();
        let long: Vec<Pair> =
            (0..64).map(|at| Pair(1 + at * (1 + step), format!("{at} {}", "x".repeat(1000)))).collect();
        let mut adder = additions.on(&db).unwrap();
        let tx = db.unchecked_transaction().unwrap();
        assert!(adder.add(&long[0]).unwrap());
        assert!(adder.add_each(&long[1..]).is_err());
        assert_eq!(adder.next.is_some(), step == 0);
        drop(tx);
        assert!(rows(&db).is_empty());
        assert_eq!(adder.add_each(&long[..3]).unwrap(), 3);
        assert_eq!(rows(&db).len(), 3);
    }

    #[test]
    fn another_failure_is_one() {
        let (db, additions) = table();
        db.execute_batch(
            "DROP TABLE pairs; CREATE TABLE pairs (id INTEGER PRIMARY KEY, name TEXT, more INTEGER);",
        )
        .unwrap();
        let new: Vec<Pair> = (0..20).map(|id| Pair(id, format!("{id}"))).collect();
        let mut adder = additions.on(&db).unwrap();
        db.execute_batch("PRAGMA query_only = 1").unwrap();
        assert!(adder.add_each(&new).is_err());
        assert!(adder.add(&new[0]).is_err());
    }
}
