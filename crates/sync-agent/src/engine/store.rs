//! What an agent knows about its target, in one file: the three trees, the cursor, and what is still to be done.
//!
//! * *local*: the index of the target, kept by the same code as the daemon's.
//! * *remote*: a [`Replica`] of the share. While a full tree is being received it goes into a second replica, and the two
//!   change places at its first commit point. Where nothing was ever received or agreed on, it may be filled from while it comes,
//!   and then they change places [before](Store::receive_in_place).
//! * *base*: what both last agreed on, by the remote node's id, with the local node's id.
//!
//! Nodes that may differ are *pending*, in the same transaction in which they became so, and stay so until what was planned
//! for them is recorded. So nothing is forgotten by an error, a kill or a power cut, and a run looks at nothing else.

use rusqlite::{Connection, OptionalExtension as _, params};
use sync_core::{
    CommitPoint, Cursor, Digest, Node, NodeChange, NodeId, Problem, RuleFile, RuleSet, Seq, ShareId,
    TreePath, Watching,
    plan::{Filling, Fresh, Scope},
};
use sync_tree::index::{Index, IndexError, IndexTx, NodeTable, Replica};

use super::{
    base::{drop_base_of_dead, drop_dead_base, for_each, rename_base},
    told,
};

/// Keys of the `target` table.
mod keys {
    pub(super) const SHARE_NAME: &str = "share_name";
    pub(super) const SHARE_ID: &str = "share_id";
    pub(super) const EPOCH: &str = "epoch";
    pub(super) const CURSOR: &str = "cursor";
    pub(super) const REPLICA: &str = "replica";
    pub(super) const INCOMING: &str = "incoming";
    pub(super) const INCOMING_EPOCH: &str = "incoming_epoch";
    pub(super) const IN_PLACE: &str = "in_place";
    pub(super) const LOCAL_SEEN: &str = "local_seen";
    pub(super) const EVERYTHING: &str = "everything";
    pub(super) const COMMIT: &str = "commit";
    pub(super) const VERIFIED: &str = "verified";
    pub(super) const RUNNING: &str = "running";
    pub(super) const OTHER_SHARE: &str = "other_share";
    pub(super) const AGREED_ONCE: &str = "agreed_once";
    pub(super) const FILLING: &str = "filling";
    pub(super) const WATCHING: &str = "watching";
    pub(super) const WATCHING_TOLD: &str = "watching_told";
    pub(super) const OLD_RULES: &str = "old_rules";
}

/// The tables of the two replicas.
const REPLICAS: [&str; 2] = ["remote_a", "remote_b"];

/// The version of these tables; that of the index says which programs may open the file.
const VERSION: u8 = 2;

/// How far back deletions count towards the mass-delete guard, in seconds.
const GUARD_WINDOW_SECS: i64 = 600;

/// What is told again within so many seconds is not written down again: a pull that has nothing to do should write little.
const TOLD_AGAIN_SECS: i64 = 60;

/// The target's database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    index: Index,
    replicas: [Replica; 2],
}

/// What was received and is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    pub cursor: Cursor,
    pub root_digest: Digest,
    pub files: u64,
    pub bytes: u64,
}

/// How well the share hears of changes, as it was last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldWatching {
    /// What was told.
    pub watching: Watching,
    /// When (seconds since 1970); not known of what an older version wrote down.
    pub at_secs: Option<i64>,
}

/// When the target was last compared as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verified {
    pub at_secs: i64,
    pub root_digest: Digest,
}

impl Store {
    pub(crate) fn open(index: Index) -> Result<Self, IndexError> {
        let store = Self { index, replicas: REPLICAS.map(Replica::new) };
        store.index.write(|tx| create(tx.sql(), &store.replicas).map_err(IndexError::from))?;
        Ok(store)
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    fn write<T>(&self, work: impl FnOnce(&IndexTx<'_>) -> rusqlite::Result<T>) -> Result<T, IndexError> {
        let (value, _) = self.index.write(|tx| work(tx).map_err(IndexError::from))?;
        Ok(value)
    }

    /// The name and id of the share that this is a target of.
    pub(crate) fn share(&self) -> Result<Option<(String, Option<ShareId>)>, IndexError> {
        self.index.read(share_of)
    }

    pub(crate) fn set_share_name(&self, name: &str) -> Result<(), IndexError> {
        self.write(|tx| set(tx.sql(), keys::SHARE_NAME, name.as_bytes()))
    }

    /// A run begins. Answers whether the last one was cut off: then the disk may be ahead of what is recorded.
    pub(crate) fn begin_run(&self) -> Result<bool, IndexError> {
        self.write(|tx| {
            let cut_off = get(tx.sql(), keys::RUNNING)?.is_some();
            set(tx.sql(), keys::RUNNING, &[1])?;
            Ok(cut_off)
        })
    }

    /// A run ends with everything recorded that it did.
    pub(crate) fn end_run(&self) -> Result<(), IndexError> {
        self.write(|tx| unset(tx.sql(), keys::RUNNING))
    }

    /// Where to go on reading the feed.
    pub(crate) fn cursor(&self) -> Result<Option<Cursor>, IndexError> {
        self.index.read(|db| Ok(get(db, keys::CURSOR)?.map(|bytes| Cursor(bytes.into()))))
    }

    /// A full tree begins.
    pub(crate) fn begin_tree(&self, share: ShareId, epoch: [u8; 16]) -> Result<(), IndexError> {
        self.write(|tx| {
            let db = tx.sql();
            self.replicas[spare(db)?].reset(db)?;
            set(db, keys::INCOMING, &[1])?;
            unset(db, keys::IN_PLACE)?;
            set(db, keys::INCOMING_EPOCH, &epoch)?;
            if get(db, keys::SHARE_ID)?.is_some_and(|known| known != share.0) {
                set(db, keys::OTHER_SHARE, &[1])?;
            }
            set(db, keys::SHARE_ID, &share.0)?;
            unset(db, keys::CURSOR)
        })
    }

    /// Of the tree that has just begun to come files may be brought before it is complete, if the target has nothing and never had:
    /// answers whether that is so. What is agreed on from now on has this tree's ids.
    pub(crate) fn receive_in_place(&self) -> Result<bool, IndexError> {
        self.write(|tx| {
            let db = tx.sql();
            let is_known = |key| get(db, key).map(|value| value.is_some());
            if !is_incoming(db)? || is_known(keys::EPOCH)? || is_known(keys::OTHER_SHARE)? {
                return Ok(false);
            }
            if !self.is_blank(db)? {
                return Ok(false);
            }
            set(db, keys::REPLICA, &[spare(db)? as u8])?;
            set(db, keys::EPOCH, &get(db, keys::INCOMING_EPOCH)?.unwrap_or_default())?;
            set(db, keys::IN_PLACE, &[1])?;
            set(db, keys::FILLING, &[1])?;
            unset(db, keys::VERIFIED)?;
            Ok(true)
        })
    }

    /// Whether nothing is here, and nothing was agreed on.
    fn is_blank(&self, db: &Connection) -> rusqlite::Result<bool> {
        let agreed = db.query_row("SELECT EXISTS (SELECT 1 FROM base)", [], |row| row.get::<_, bool>(0))?;
        Ok(!agreed && self.index.table().page(db, NodeId::ROOT, 1)?.is_empty())
    }

    /// A piece of the feed.
    pub(crate) fn take_nodes(&self, changes: &[NodeChange], resume: &Cursor) -> Result<(), IndexError> {
        self.write(|tx| {
            let db = tx.sql();
            self.replicas[receiving(db)?].apply(db, changes)?;
            if !is_incoming(db)? {
                add_pending(db, "pending_remote", changes.iter().map(NodeChange::id))?;
            }
            set(db, keys::CURSOR, &resume.0)
        })
    }

    /// The remote tree is complete. Answers whether it is the tree that the daemon has: if not, the replica cannot be
    /// trusted and the cursor is forgotten.
    pub(crate) fn take_commit(&self, commit: &CommitPoint) -> Result<bool, IndexError> {
        self.write(|tx| {
            let db = tx.sql();
            let new = receiving(db)?;
            if self.replicas[new].root_digest(db)? != commit.root_digest {
                unset(db, keys::CURSOR)?;
                unset(db, keys::INCOMING)?;
                return Ok(false);
            }
            if is_incoming(db)? {
                if new != current(db)? {
                    self.exchange_replicas(db, new)?;
                }
                unset(db, keys::INCOMING)?;
                set(db, keys::EVERYTHING, &[1])?;
            }
            set(db, keys::CURSOR, &commit.cursor.0)?;
            set(db, keys::COMMIT, &encode_commit(commit))?;
            Ok(true)
        })
    }

    /// The received tree takes the place of the old one. If the daemon's index was made anew the node ids mean nothing any
    /// more, so what was agreed on is found again by path.
    fn exchange_replicas(&self, db: &Connection, new: usize) -> rusqlite::Result<()> {
        let old = current(db)?;
        let epoch = get(db, keys::INCOMING_EPOCH)?.unwrap_or_default();
        if get(db, keys::EPOCH)?.as_ref() != Some(&epoch) {
            rename_base(db, self.replicas[old].table(), self.replicas[new].table())?;
        }
        // Another share under the old name: what it lacks it never had. That is the target's own now, so it goes to the trash
        // and counts for the guard, as on a first run.
        if get(db, keys::OTHER_SHARE)?.is_some() {
            db.execute("DELETE FROM base WHERE id < 0", [])?;
            unset(db, keys::AGREED_ONCE)?;
            unset(db, keys::FILLING)?;
            unset(db, keys::OTHER_SHARE)?;
        }
        set(db, keys::EPOCH, &epoch)?;
        set(db, keys::REPLICA, &[new as u8])?;
        self.replicas[old].reset(db)
    }

    /// The remote tree as it was at the last commit point.
    pub(crate) fn remote(&self) -> Result<Option<Remote>, IndexError> {
        self.index.read(|db| Ok(get(db, keys::COMMIT)?.and_then(|bytes| decode_commit(&bytes))))
    }

    /// The ignore rules. Answers whether they are others than before. Those of a directory that has none any more hold until
    /// [`settle_old_rules`](Self::settle_old_rules): if the directory itself is gone, what it ignored stays.
    pub(crate) fn take_rules(&self, rules: &RuleSet) -> Result<bool, IndexError> {
        let before = self.index.rule_set()?;
        let has = |dir: &TreePath| rules.files.iter().any(|file| file.dir == *dir);
        let old = before.files.iter().filter(|file| !file.dir.is_root() && !has(&file.dir));
        let old: Vec<RuleFile> = old.cloned().collect();
        let dirs: Vec<&str> = old.iter().map(|file| file.dir.as_str()).collect();
        let mut now = rules.clone();
        now.files.extend(old.iter().cloned());
        // Also where the rules stay as they are for the moment: which of them are old has to be known.
        if now != before || !dirs.is_empty() {
            self.set_rules(&now, &dirs)?;
        }
        Ok(now != before)
    }

    /// Forgets the rules of directories that have none any more, but for those that are gone from the remote tree and still
    /// here. Answers whether any were forgotten.
    pub(crate) fn settle_old_rules(&self) -> Result<bool, IndexError> {
        let old = self.index.read(|db| get(db, keys::OLD_RULES))?.unwrap_or_default();
        let old = String::from_utf8_lossy(&old).into_owned();
        let old: Vec<TreePath> =
            old.split_terminator('\0').filter_map(|dir| TreePath::new(dir).ok()).collect();
        if old.is_empty() {
            return Ok(false);
        }
        let holds = |db: &Connection, dir: &TreePath| -> rusqlite::Result<bool> {
            let remote = self.replicas[current(db)?].table();
            Ok(remote.find(db, dir)?.is_none() && self.index.table().find(db, dir)?.is_some())
        };
        let (kept, dropped): (Vec<_>, Vec<_>) = self.index.read(|db| {
            let all: rusqlite::Result<Vec<_>> =
                old.into_iter().map(|dir| Ok((holds(db, &dir)?, dir))).collect();
            Ok(all?.into_iter().partition(|(holds, _)| *holds))
        })?;
        if dropped.is_empty() {
            return Ok(false);
        }
        let mut rules = self.index.rule_set()?;
        rules.files.retain(|file| !dropped.iter().any(|(_, dir)| file.dir == *dir));
        self.set_rules(&rules, &kept.iter().map(|(_, dir)| dir.as_str()).collect::<Vec<_>>())?;
        Ok(true)
    }

    fn set_rules(&self, rules: &RuleSet, old: &[&str]) -> Result<(), IndexError> {
        let old: String = old.iter().map(|dir| format!("{dir}\0")).collect();
        let written = self.index.write(|tx| {
            tx.set_rules(rules)?;
            Ok::<_, IndexError>(set(tx.sql(), keys::OLD_RULES, old.as_bytes())?)
        });
        written.map(|((), _)| ())
    }

    /// How well the share hears of changes, and when it said so. Answers whether it was degraded before.
    pub(crate) fn take_watching(&self, watching: &Watching, now_secs: i64) -> Result<bool, IndexError> {
        let before = self.index.read(watching_of)?;
        let is_fresh = |at_secs: i64| (at_secs..at_secs + TOLD_AGAIN_SECS).contains(&now_secs);
        let is_known = before
            .as_ref()
            .is_some_and(|before| before.watching == *watching && before.at_secs.is_some_and(is_fresh));
        if !is_known {
            self.write(|tx| {
                set(tx.sql(), keys::WATCHING, &told::encode(watching))?;
                set_u64(tx.sql(), keys::WATCHING_TOLD, now_secs.cast_unsigned())
            })?;
        }
        Ok(before.is_some_and(|before| before.watching.is_degraded()))
    }

    /// What the daemon cannot read. A place that it could not read before may differ now.
    pub(crate) fn take_problems(&self, problems: &[Problem]) -> Result<(), IndexError> {
        let mut before = self.remote_problems()?;
        let mut now = problems.to_vec();
        let key = |problem: &Problem| (problem.path.clone(), problem.raw_name.clone(), problem.error.clone());
        before.sort_by_key(key);
        now.sort_by_key(key);
        if before == now {
            return Ok(());
        }
        self.write(|tx| {
            let db = tx.sql();
            db.execute("DELETE FROM remote_problems", [])?;
            let mut insert = db.prepare_cached("INSERT INTO remote_problems VALUES (?1, ?2, ?3, ?4)")?;
            for problem in problems {
                insert.execute(params![
                    problem.path.as_str(),
                    problem.raw_name,
                    problem.error,
                    problem.unknown
                ])?;
            }
            set(db, keys::EVERYTHING, &[1])
        })
    }

    pub(crate) fn remote_problems(&self) -> Result<Vec<Problem>, IndexError> {
        self.index.read(remote_problems_of)
    }

    /// Makes what a look found pending.
    pub(crate) fn take_local_changes(&self) -> Result<(), IndexError> {
        let mut seen = Seq(self.index.read(|db| get_u64(db, keys::LOCAL_SEEN))?.unwrap_or(0));
        if seen == self.index.head()?.seq {
            return Ok(());
        }
        loop {
            let page = self.index.feed_page(seen, 4096)?;
            seen = page.last;
            let complete = page.commit.is_some();
            if !page.changes.is_empty() {
                self.write(|tx| {
                    add_pending(tx.sql(), "pending_local", page.changes.iter().map(NodeChange::id))?;
                    set_u64(tx.sql(), keys::LOCAL_SEEN, seen.0)
                })?;
            }
            if complete {
                return Ok(());
            }
        }
    }

    /// What was applied and recorded up to now is no news. To be called only if no look came in between.
    pub(crate) fn local_is_known(&self) -> Result<(), IndexError> {
        let head = self.index.head()?;
        self.write(|tx| set_u64(tx.sql(), keys::LOCAL_SEEN, head.seq.0))
    }

    /// The places that may differ.
    pub(crate) fn scope(&self) -> Result<Scope, IndexError> {
        self.index.read(|db| {
            if get(db, keys::EVERYTHING)?.is_some() {
                return Ok(Scope::Everything);
            }
            Ok(Scope::Nodes { remote: pending(db, "pending_remote")?, local: pending(db, "pending_local")? })
        })
    }

    /// What was planned from `scope` is empty or recorded: nothing of it is pending any more but what is in `left`.
    pub(crate) fn settled(&self, scope: &Scope, left: &[NodeId]) -> Result<(), IndexError> {
        self.write(|tx| {
            let db = tx.sql();
            match scope {
                Scope::Everything => {
                    unset(db, keys::EVERYTHING)?;
                    db.execute_batch("DELETE FROM pending_remote; DELETE FROM pending_local;")?;
                    drop_dead_base(db, REPLICAS[current(db)?])?;
                }
                Scope::Nodes { remote, local } => {
                    let table = REPLICAS[current(db)?];
                    drop_base_of_dead(db, table)?;
                    remove_pending(db, "pending_remote", remote)?;
                    remove_pending(db, "pending_local", local)?;
                }
            }
            add_pending(db, "pending_remote", left)
        })
    }

    /// Local nodes that failed stay pending by their own id: the remote does not know them.
    pub(crate) fn keep_local_pending(&self, left: &[NodeId]) -> Result<(), IndexError> {
        self.write(|tx| add_pending(tx.sql(), "pending_local", left))
    }

    pub(crate) fn pending_count(&self) -> Result<u64, IndexError> {
        self.index.read(pending_count_of)
    }

    /// Everything is looked at again the next time.
    pub(crate) fn distrust_everything(&self) -> Result<(), IndexError> {
        self.write(|tx| set(tx.sql(), keys::EVERYTHING, &[1]))
    }

    /// Whether anything was ever agreed on.
    pub(crate) fn is_first_run(&self) -> Result<bool, IndexError> {
        self.index.read(|db| Ok(get(db, keys::AGREED_ONCE)?.is_none()))
    }

    pub(crate) fn first_run_is_over(&self) -> Result<(), IndexError> {
        self.write(|tx| {
            unset(tx.sql(), keys::FILLING)?;
            set(tx.sql(), keys::AGREED_ONCE, &[1])
        })
    }

    /// How many files were deleted in the guard's window.
    pub(crate) fn deleted_since(&self, now_secs: i64) -> Result<u64, IndexError> {
        let since = now_secs - GUARD_WINDOW_SECS;
        self.index.read(|db| {
            let sum = "SELECT coalesce(sum(deleted), 0) FROM deletions WHERE at > ?1";
            db.query_row(sum, [since], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
        })
    }

    /// A person allowed a mass deletion: it does not count against what comes next.
    pub(crate) fn forgive_deletions(&self) -> Result<(), IndexError> {
        self.write(|tx| tx.sql().execute("DELETE FROM deletions", []).map(drop))
    }

    pub(crate) fn set_verified(&self, verified: Verified) -> Result<(), IndexError> {
        self.write(|tx| {
            let mut bytes = verified.at_secs.to_le_bytes().to_vec();
            bytes.extend_from_slice(&verified.root_digest.0);
            set(tx.sql(), keys::VERIFIED, &bytes)
        })
    }

    pub(crate) fn unset_verified(&self) -> Result<(), IndexError> {
        self.write(|tx| unset(tx.sql(), keys::VERIFIED))
    }

    /// How a target whose first run is not over may be filled, part by part; `None` if it has to be planned as a whole.
    pub(crate) fn filling(&self) -> Result<Option<Gaps>, IndexError> {
        self.index.read(|db| {
            if get(db, keys::EVERYTHING)?.is_none() {
                return Ok(None);
            }
            if self.is_blank(db)? {
                return Ok(Some(Gaps::All(Box::default())));
            }
            // The target was blank when that began: what is in it came from this share, or since then.
            Ok(get(db, keys::FILLING)?.is_some().then(|| Gaps::Rest(Filling::rest())))
        })
    }

    pub(crate) fn filling_begins(&self) -> Result<(), IndexError> {
        self.write(|tx| set(tx.sql(), keys::FILLING, &[1]))
    }

    /// The copy of the share's tree.
    pub(crate) fn remote_table(&self, db: &Connection) -> rusqlite::Result<&NodeTable> {
        Ok(self.replicas[current(db)?].table())
    }

    /// The remote node with this id.
    pub(crate) fn remote_node(&self, db: &Connection, id: NodeId) -> rusqlite::Result<Option<Node>> {
        Ok(self.remote_table(db)?.get(db, id)?.map(|row| row.node))
    }
}

/// What a target lacks, told a part at a time.
pub(crate) enum Gaps {
    /// Everything.
    All(Box<Fresh>),
    /// What is not here yet of a tree that began to come earlier. A plan of the whole has to follow.
    Rest(Filling),
}

/// Reads for `status`, which takes no lock and writes nothing.
pub(crate) fn share_of(db: &Connection) -> rusqlite::Result<Option<(String, Option<ShareId>)>> {
    let Some(name) = get(db, keys::SHARE_NAME)? else { return Ok(None) };
    let id = get(db, keys::SHARE_ID)?.and_then(|bytes| ShareId::from_slice(&bytes));
    Ok(Some((String::from_utf8_lossy(&name).into_owned(), id)))
}

pub(crate) fn remote_of_status(db: &Connection) -> rusqlite::Result<Option<Remote>> {
    Ok(get(db, keys::COMMIT)?.and_then(|bytes| decode_commit(&bytes)))
}

pub(crate) fn verified_of(db: &Connection) -> rusqlite::Result<Option<Verified>> {
    Ok(get(db, keys::VERIFIED)?.and_then(|bytes| {
        let (at, digest) = bytes.split_at_checked(8)?;
        Some(Verified {
            at_secs: i64::from_le_bytes(at.try_into().ok()?),
            root_digest: Digest::from_slice(digest)?,
        })
    }))
}

pub(crate) fn watching_of(db: &Connection) -> rusqlite::Result<Option<ToldWatching>> {
    let at_secs = get_u64(db, keys::WATCHING_TOLD)?.map(u64::cast_signed);
    let watching = get(db, keys::WATCHING)?.and_then(|bytes| told::decode(&bytes));
    Ok(watching.map(|watching| ToldWatching { watching, at_secs }))
}

pub(crate) fn pending_count_of(db: &Connection) -> rusqlite::Result<u64> {
    let counted: i64 = db.query_row(
        "SELECT (SELECT count(*) FROM pending_remote) + (SELECT count(*) FROM pending_local)",
        [],
        |row| row.get(0),
    )?;
    Ok(counted.unsigned_abs() + u64::from(get(db, keys::EVERYTHING)?.is_some() && counted == 0))
}

pub(crate) fn remote_problems_of(db: &Connection) -> rusqlite::Result<Vec<Problem>> {
    let mut statement = db.prepare_cached("SELECT path, raw_name, error, unknown FROM remote_problems")?;
    let rows = statement.query_map([], |row| {
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

/// Makes the tables, or brings them to this version.
fn create(db: &Connection, replicas: &[Replica; 2]) -> rusqlite::Result<()> {
    let made = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'target')";
    if db.query_row(made, [], |row| row.get(0))? {
        if get(db, "version")?.as_deref() != Some(&[VERSION]) {
            replicas.iter().try_for_each(|replica| replica.upgrade(db))?;
            set(db, "version", &[VERSION])?;
        }
        return Ok(());
    }
    db.execute_batch(
        "CREATE TABLE target (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE base (id INTEGER PRIMARY KEY, local INTEGER NOT NULL, kind INTEGER NOT NULL, size INTEGER NOT NULL,
             mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, mode INTEGER NOT NULL, content BLOB) STRICT;
         CREATE UNIQUE INDEX base_local ON base (local);
         CREATE TABLE pending_remote (id INTEGER PRIMARY KEY) STRICT;
         CREATE TABLE pending_local (id INTEGER PRIMARY KEY) STRICT;
         CREATE TABLE deletions (at INTEGER NOT NULL, deleted INTEGER NOT NULL) STRICT;
         CREATE TABLE remote_problems (path TEXT NOT NULL, raw_name BLOB NOT NULL, error TEXT NOT NULL,
             unknown INTEGER NOT NULL) STRICT;",
    )?;
    set(db, "version", &[VERSION])?;
    replicas.iter().try_for_each(|replica| replica.reset(db))
}

/// Remembers deletions for the guard, together with what deleted: however the run ends, they count.
pub(super) fn count_deletions(db: &Connection, now_secs: i64, deleted: u64) -> rusqlite::Result<()> {
    if deleted == 0 {
        return Ok(());
    }
    db.execute("DELETE FROM deletions WHERE at <= ?1", [now_secs - GUARD_WINDOW_SECS])?;
    db.execute("INSERT INTO deletions (at, deleted) VALUES (?1, ?2)", [now_secs, deleted.cast_signed()])?;
    Ok(())
}

fn pending(db: &Connection, table: &str) -> rusqlite::Result<Vec<NodeId>> {
    let mut statement = db.prepare_cached(&format!("SELECT id FROM {table} ORDER BY id"))?;
    statement.query_map([], |row| Ok(NodeId(row.get::<_, i64>(0)?.cast_unsigned())))?.collect()
}

fn add_pending<'n>(
    db: &Connection,
    table: &str,
    ids: impl IntoIterator<Item = &'n NodeId>,
) -> rusqlite::Result<()> {
    for_each(db, &format!("INSERT OR IGNORE INTO {table} VALUES (?1)"), ids)
}

fn remove_pending(db: &Connection, table: &str, ids: &[NodeId]) -> rusqlite::Result<()> {
    let pending: i64 = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
    // Nobody else removes any: where there are as many they are the same.
    if pending.unsigned_abs() as usize == ids.len() {
        return db.execute(&format!("DELETE FROM {table}"), []).map(drop);
    }
    for_each(db, &format!("DELETE FROM {table} WHERE id = ?1"), ids)
}

fn current(db: &Connection) -> rusqlite::Result<usize> {
    Ok(get(db, keys::REPLICA)?.and_then(|bytes| bytes.first().copied()).map_or(0, usize::from).min(1))
}

fn spare(db: &Connection) -> rusqlite::Result<usize> {
    Ok(1 - current(db)?)
}

/// The replica that the feed goes into.
fn receiving(db: &Connection) -> rusqlite::Result<usize> {
    let in_place = !is_incoming(db)? || get(db, keys::IN_PLACE)?.is_some();
    if in_place { current(db) } else { spare(db) }
}

fn is_incoming(db: &Connection) -> rusqlite::Result<bool> {
    Ok(get(db, keys::INCOMING)?.is_some())
}

fn get(db: &Connection, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT value FROM target WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

fn get_u64(db: &Connection, key: &str) -> rusqlite::Result<Option<u64>> {
    Ok(get(db, key)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes))
}

fn set(db: &Connection, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO target VALUES (?1, ?2)")?.execute(params![key, value])?;
    Ok(())
}

fn set_u64(db: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    set(db, key, &value.to_le_bytes())
}

fn unset(db: &Connection, key: &str) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM target WHERE key = ?1")?.execute([key])?;
    Ok(())
}

fn encode_commit(commit: &CommitPoint) -> Vec<u8> {
    let mut bytes = commit.root_digest.0.to_vec();
    bytes.extend_from_slice(&commit.files.to_le_bytes());
    bytes.extend_from_slice(&commit.bytes.to_le_bytes());
    bytes.extend_from_slice(&commit.cursor.0);
    bytes
}

fn decode_commit(bytes: &[u8]) -> Option<Remote> {
    let (digest, rest) = bytes.split_at_checked(32)?;
    let (files, rest) = rest.split_at_checked(8)?;
    let (total, cursor) = rest.split_at_checked(8)?;
    Some(Remote {
        cursor: Cursor(cursor.into()),
        root_digest: Digest::from_slice(digest)?,
        files: u64::from_le_bytes(files.try_into().ok()?),
        bytes: u64::from_le_bytes(total.try_into().ok()?),
    })
}
