//! What a cut may leave of a traced pull, as real directories, and what the next pull makes of it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, params};
use sync_testkit::{
    power::{Ino, View, digest, place},
    rng::Rng,
};

use crate::recorder::{Image, Trace, stat_of};

/// A target as a cut may leave it.
pub(crate) struct State {
    view: View,
    /// The newest commit that survived.
    image: Option<Image>,
    pub(crate) story: String,
}

/// So many of the things in doubt are lost, or kept, alone at one moment; and so many parts of all are tried.
const ALONE: usize = 4;
const PARTS: usize = 3;

/// At most so many of all the states that a cut may leave.
pub(crate) fn states(trace: &Trace, most: usize, seed: u64) -> Vec<State> {
    let mut rng = Rng::new(seed);
    let mut disk = trace.before.clone();
    let mut found = BTreeMap::new();
    for at in 0..=trace.events.len() {
        let images = survivors(trace, at);
        for cut in disk.after_cut((ALONE, PARTS), &mut rng) {
            let lost = if rng.chance(70) { 0 } else { rng.below(images.len()) };
            let image = images[images.len() - 1 - lost].cloned();
            let story =
                format!("cut after {at} of {}, {lost} commits lost, {}", trace.events.len(), cut.story);
            let key = (digest(&cut.view), image.as_ref().map(|image| image.until));
            found.entry(key).or_insert(State { view: cut.view, image, story });
        }
        if let Some(event) = trace.events.get(at) {
            disk.apply(event);
        }
    }
    let mut found: Vec<State> = found.into_values().collect();
    for at in 0..found.len() {
        let other = at + rng.below(found.len() - at);
        found.swap(at, other);
    }
    found.truncate(most);
    found
}

/// The commits of which the newest may be the one that survived a cut at this moment. Nothing is missing between those that
/// survive.
fn survivors(trace: &Trace, at: usize) -> Vec<Option<&Image>> {
    let flushed = trace.flushes.iter().filter(|(when, _)| *when <= at).map(|(_, images)| *images).max();
    let done = trace.images.iter().filter(|image| image.until <= at).map(Some);
    std::iter::once(trace.first.as_ref()).chain(done).skip(flushed.unwrap_or(0)).collect()
}

impl State {
    /// Makes a directory of it.
    pub(crate) fn place(&self, to: &Path) {
        let numbers = place(&self.view, to).unwrap();
        let Some(image) = &self.image else { return };
        let state = to.join(".syncd");
        if !state.is_dir() {
            return;
        }
        let database = state.join("target.db");
        copy_database(&image.path, &database);
        let db = Connection::open(&database).unwrap();
        self.renumber(&db, image, &numbers, to);
    }

    /// In another directory the same inodes have other numbers and change times. Where the index knows an inode, it is made to
    /// know that one, and to find nothing changed about it that cannot be told from its size and its modification time.
    fn renumber(&self, db: &Connection, image: &Image, numbers: &HashMap<Ino, u64>, to: &Path) {
        let paths: HashMap<Ino, PathBuf> = self.paths(to);
        let rows: Vec<(i64, i64)> = db
            .prepare("SELECT id, ino FROM nodes WHERE ino IS NOT NULL")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        for (id, number) in rows {
            let ino = image.numbers.get(&number.cast_unsigned());
            let now = ino.and_then(|ino| Some((*numbers.get(ino)?, stat_of(paths.get(ino)?))));
            let (number, ctime) = now.map_or((0, (0, 0)), |(number, stat)| {
                (number.cast_signed(), (stat.st_ctime, stat.st_ctime_nsec as i64))
            });
            let is_dir = "kind = 2";
            db.execute(
                &format!(
                    "UPDATE nodes SET ino = ?2, ctime_s = CASE WHEN {is_dir} THEN ctime_s ELSE ?3 END,
                     ctime_ns = CASE WHEN {is_dir} THEN ctime_ns ELSE ?4 END WHERE id = ?1"
                ),
                params![id, number, ctime.0, ctime.1],
            )
            .unwrap();
        }
        // They are made again of what the rows have now.
        db.execute_batch("DROP TABLE IF EXISTS new_clues;").unwrap();
    }

    fn paths(&self, to: &Path) -> HashMap<Ino, PathBuf> {
        let path = |path: &[u8]| to.join(String::from_utf8_lossy(path).into_owned());
        self.view
            .iter()
            .filter(|(name, _)| !name.starts_with(b".syncd"))
            .map(|(name, held)| (held.ino, path(name)))
            .collect()
    }
}

/// Copies a database that nobody writes to, with its log.
pub(crate) fn copy_database(from: &Path, to: &Path) {
    for end in ["", "-wal"] {
        let with_end = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        match fs::copy(with_end(from), with_end(to)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && end == "-wal" => {}
            copied => drop(copied.unwrap()),
        }
    }
}
