//! The database file: its settings, its migrations, and what is in it besides nodes.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Params, config::DbConfig, params};
use sync_core::{Digest, Problem, RuleFile, RuleSet, Seq, TreePath};

use super::{Head, IndexError, sheets, table::NodeTable};

/// The table of the tree that is on this disk.
pub(crate) const LOCAL: &str = "nodes";

/// Each step brings a database from the version before it; `user_version` says how many have been taken.
const MIGRATIONS: [fn(&Connection) -> rusqlite::Result<()>; 4] =
    [create_first, write_fewer_pages, sheets::create, search_by_clues];

fn create_first(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, root_digest BLOB NOT NULL,
             files INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
         CREATE TABLE rules (at INTEGER PRIMARY KEY, dir TEXT NOT NULL, text TEXT NOT NULL) STRICT;
         CREATE TABLE problems (path TEXT NOT NULL, raw_name BLOB NOT NULL, error TEXT NOT NULL,
             unknown INTEGER NOT NULL, PRIMARY KEY (path, raw_name)) STRICT, WITHOUT ROWID;
         CREATE TABLE mounts (path TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;",
    )?;
    NodeTable::new(LOCAL).create(db, true)?;
    let empty = sync_core::treehash::DirSum::default().digest();
    db.execute("INSERT INTO head VALUES (1, 0, ?1, 0, 0)", [empty.0])?;
    Ok(())
}

/// What is written with each change is in few pages. What takes the place of the index by content is made when somebody searches.
fn write_fewer_pages(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("DROP INDEX IF EXISTS nodes_content;")?;
    NodeTable::new(LOCAL).part_sums(db)
}

/// What takes the place of these is made when somebody searches.
fn search_by_clues(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("DROP INDEX IF EXISTS nodes_ino; DROP INDEX IF EXISTS nodes_contents;")
}

/// Pages of the database that a connection keeps in memory, in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cache {
    /// Pages that fit are neither spilled nor read again within a large transaction.
    Writer = 12 * 1024,
    /// Readers go through rows in the order in which they lie. The kernel has the pages too, and getting memory for a page costs
    /// more than having it copied once more.
    Reader = 2 * 1024,
}

/// Opens a connection with our settings.
pub(crate) fn connect(path: &Path, cache: Cache) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    // Another process never holds the database for long: each side has an OS lock on its state.
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // A commit is not flushed by itself. After a power cut the index may be older than the disk, never newer than what
    // was flushed before it, and the next scan finds the difference.
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "cache_size", -(cache as i64))?;
    // Moving pages from the log into the file is work that is better done seldom; 16 MiB of log is no burden.
    db.pragma_update(None, "wal_autocheckpoint", 4000)?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.set_prepared_statement_cache_capacity(64);
    // A plan is made for a statement, not for what is bound to it. Else SQLite compiles some statements anew each time they get a
    // value that might have led to another plan, such as 0 or 1, or a limit, which takes ten times as long as running them.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(db)
}

/// Brings the database to this version.
pub(crate) fn migrate(db: &mut Connection, path: &Path) -> Result<(), IndexError> {
    let found: usize =
        db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))?.unsigned_abs() as usize;
    if found > MIGRATIONS.len() {
        return Err(IndexError::TooNew { path: path.to_owned() });
    }
    for (step, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        let tx = db.transaction()?;
        migration(&tx)?;
        tx.pragma_update(None, "user_version", (step + 1) as i64)?;
        tx.commit()?;
    }
    Ok(())
}

/// A value by its key.
pub(crate) fn meta(db: &Connection, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()
}

/// Sets a value.
pub(crate) fn set_meta(db: &Connection, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2")?
        .execute(params![key, value])?;
    Ok(())
}

pub(crate) fn meta_u64(db: &Connection, key: &str) -> rusqlite::Result<Option<u64>> {
    Ok(meta(db, key)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes))
}

pub(crate) fn head(db: &Connection) -> rusqlite::Result<Head> {
    db.prepare_cached("SELECT seq, root_digest, files, bytes FROM head")?.query_row([], |row| {
        Ok(Head {
            seq: Seq(row.get::<_, i64>(0)?.unsigned_abs()),
            root_digest: Digest(row.get(1)?),
            files: row.get::<_, i64>(2)?.unsigned_abs(),
            bytes: row.get::<_, i64>(3)?.unsigned_abs(),
        })
    })
}

pub(crate) fn set_head(db: &Connection, head: &Head) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE head SET seq = ?1, root_digest = ?2, files = ?3, bytes = ?4")?.execute(
        params![
            head.seq.0.cast_signed(),
            head.root_digest.0,
            head.files.cast_signed(),
            head.bytes.cast_signed()
        ],
    )?;
    Ok(())
}

pub(crate) fn rules(db: &Connection) -> rusqlite::Result<RuleSet> {
    let mut statement = db.prepare_cached("SELECT dir, text FROM rules ORDER BY at")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut files = Vec::new();
    for row in rows {
        let (dir, text) = row?;
        if let Ok(dir) = TreePath::new(&dir) {
            files.push(RuleFile { dir, text });
        }
    }
    Ok(RuleSet { files })
}

pub(crate) fn set_rules(db: &Connection, rules: &RuleSet) -> rusqlite::Result<()> {
    db.execute("DELETE FROM rules", [])?;
    let mut insert = db.prepare_cached("INSERT INTO rules (dir, text) VALUES (?1, ?2)")?;
    for file in &rules.files {
        insert.execute(params![file.dir.as_str(), file.text])?;
    }
    Ok(())
}

/// The paths that the last look could not read.
///
/// # Errors
/// The database failed.
pub fn problems(db: &Connection) -> rusqlite::Result<Vec<Problem>> {
    problems_by(db, "", params![])
}

/// Those at one of these places, or below one that is deep.
pub(crate) fn problems_at<'a>(
    db: &Connection,
    places: impl IntoIterator<Item = (&'a TreePath, bool)>,
) -> rusqlite::Result<Vec<Problem>> {
    let mut found = Vec::new();
    if !has_problems(db)? {
        return Ok(found);
    }
    for (place, deep) in places {
        if deep && place.is_root() {
            return problems(db);
        }
        found.extend(problems_by(db, "WHERE path = ?1", [place.as_str()])?);
        if deep {
            // What follows the slash in the order of bytes ends what is below.
            let below = ["/", "0"].map(|end| format!("{}{end}", place.as_str()));
            found.extend(problems_by(db, "WHERE path > ?1 AND path < ?2", below)?);
        }
    }
    Ok(found)
}

/// Whether there are any.
pub(crate) fn has_problems(db: &Connection) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM problems LIMIT 1")?.exists([])
}

/// Whether what is at some place is not known.
pub(crate) fn is_partly_unknown(db: &Connection) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM problems WHERE unknown LIMIT 1")?.exists([])
}

fn problems_by(db: &Connection, condition: &str, values: impl Params) -> rusqlite::Result<Vec<Problem>> {
    let sql = format!("SELECT path, raw_name, error, unknown FROM problems {condition}");
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(values, |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, Vec<u8>>(1)?,
            row.get::<_, String>(2)?,
            row.get::<_, bool>(3)?,
        ))
    })?;
    let mut problems = Vec::new();
    for row in rows {
        let (path, raw_name, error, unknown) = row?;
        if let Ok(path) = TreePath::new(&path) {
            problems.push(Problem { path, raw_name: raw_name.into(), error, unknown });
        }
    }
    Ok(problems)
}

/// Some are over, others are new or told in other words.
pub(crate) fn change_problems(db: &Connection, over: &[&Problem], new: &[&Problem]) -> rusqlite::Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM problems WHERE path = ?1 AND raw_name = ?2")?;
    for problem in over {
        delete.execute(params![problem.path.as_str(), problem.raw_name])?;
    }
    let mut insert = db.prepare_cached("INSERT OR REPLACE INTO problems VALUES (?1, ?2, ?3, ?4)")?;
    for problem in new {
        insert.execute(params![problem.path.as_str(), problem.raw_name, problem.error, problem.unknown])?;
    }
    Ok(())
}

pub(crate) fn mounts(db: &Connection) -> rusqlite::Result<Vec<TreePath>> {
    let mut statement = db.prepare_cached("SELECT path FROM mounts")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let paths: Vec<String> = rows.collect::<Result<_, _>>()?;
    Ok(paths.iter().filter_map(|path| TreePath::new(path).ok()).collect())
}

pub(crate) fn set_mounts(db: &Connection, mounts: &[TreePath]) -> rusqlite::Result<()> {
    db.execute("DELETE FROM mounts", [])?;
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO mounts VALUES (?1)")?;
    for path in mounts {
        insert.execute([path.as_str()])?;
    }
    Ok(())
}
