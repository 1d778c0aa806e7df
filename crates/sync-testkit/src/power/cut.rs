//! What a cut may leave, and how to look at it with real programs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Disk, Held, Ino, Spot, View, What};
use crate::{rng::Rng, tree::set_mtime};

/// What bytes that were not flushed turn into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// What was flushed last: of a new file, nothing.
    Old,
    /// Half of what was written.
    Half,
    /// As many zeros.
    Zeros,
}

impl Content {
    const ALL: [Self; 3] = [Self::Old, Self::Half, Self::Zeros];
}

/// One thing that a cut may undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    Naming(usize),
    Bytes(Ino),
    Mode(Ino),
    Time(Ino),
}

/// What a cut leaves.
#[derive(Debug, Clone)]
pub struct Cut {
    /// All paths.
    pub view: View,
    /// How it came to be that, for messages.
    pub story: String,
}

impl Disk {
    /// What a cut at this moment may leave: nothing that is in doubt, all of it, all but one, only one, and parts of it that
    /// chance chooses. What looks the same comes once. At most so many are lost or kept alone, chosen by chance, and there are
    /// so many parts.
    #[must_use]
    pub fn after_cut(&self, (alone, parts): (usize, usize), rng: &mut Rng) -> Vec<Cut> {
        let needs = self.needs();
        let doubts = self.doubts(&needs);
        let all: BTreeSet<Doubt> = doubts.iter().copied().collect();
        let mut cuts = BTreeMap::new();
        let mut add = |kept: &BTreeSet<Doubt>, content: Content, story: String| {
            let view = self.left(&needs, kept, content);
            cuts.entry(digest(&view)).or_insert(Cut { view, story });
        };
        add(&all, Content::Old, "nothing lost".to_owned());
        for content in Content::ALL {
            add(&BTreeSet::new(), content, format!("all lost, {content:?}"));
        }
        for _ in 0..alone.min(doubts.len()) {
            let Some(doubt) = rng.pick(&doubts).copied() else { break };
            let content = Content::ALL[rng.below(Content::ALL.len())];
            let but_it = self.without(&needs, &all, doubt);
            add(&but_it, content, format!("only {} lost, {content:?}", self.tell(doubt)));
            let it = BTreeSet::from([doubt]);
            add(&it, content, format!("only {} kept, {content:?}", self.tell(doubt)));
        }
        for number in 0..parts {
            let percent = 10 + rng.below(81);
            let some = all.iter().copied().filter(|_| rng.chance(percent)).collect();
            let content = Content::ALL[rng.below(Content::ALL.len())];
            add(&some, content, format!("part {number} kept, {content:?}"));
        }
        cuts.into_values().collect()
    }

    /// Everything as it is if all is lost that may be, but for what is there because something else is: [`Disk::safe`] relies on
    /// less.
    #[must_use]
    pub fn least(&self) -> View {
        self.left(&self.needs(), &BTreeSet::new(), Content::Old)
    }

    /// Of each change of names, the earlier ones that are there if it is.
    fn needs(&self) -> Vec<Vec<usize>> {
        let mut last: HashMap<&Spot, usize> = HashMap::new();
        let mut within: HashMap<Ino, Vec<usize>> = HashMap::new();
        let mut born: HashMap<Ino, usize> = HashMap::new();
        let mut needs = Vec::with_capacity(self.namings.len());
        for (number, naming) in self.namings.iter().enumerate() {
            let mut mine: Vec<usize> = Vec::new();
            for (spot, _) in &naming.sets {
                mine.extend(last.insert(spot, number));
                mine.extend(born.get(&spot.0));
                within.entry(spot.0).or_default().push(number);
            }
            if let Some(dir) = naming.born {
                born.insert(dir, number);
            }
            mine.extend(naming.ended.and_then(|dir| within.get(&dir)).into_iter().flatten());
            needs.push(mine);
        }
        needs
    }

    fn doubts(&self, needs: &[Vec<usize>]) -> Vec<Doubt> {
        let sure = with_needs(needs, |naming| self.namings[naming].safe);
        let namings = (0..self.namings.len()).filter(|naming| !sure[*naming]).map(Doubt::Naming);
        let mut doubts: Vec<Doubt> = namings.collect();
        for (ino, inode) in self.inodes.iter().enumerate() {
            doubts.extend(inode.bytes.is_pending().then_some(Doubt::Bytes(ino)));
            doubts.extend(inode.mode.is_pending().then_some(Doubt::Mode(ino)));
            doubts.extend(inode.mtime.is_pending().then_some(Doubt::Time(ino)));
        }
        doubts
    }

    /// All of these but one, and but what is not there without it.
    fn without(&self, needs: &[Vec<usize>], all: &BTreeSet<Doubt>, lost: Doubt) -> BTreeSet<Doubt> {
        let mut kept = all.clone();
        kept.remove(&lost);
        let Doubt::Naming(first) = lost else { return kept };
        let mut gone = BTreeSet::from([first]);
        for (naming, needed) in needs.iter().enumerate().skip(first) {
            if needed.iter().any(|earlier| gone.contains(earlier)) {
                gone.insert(naming);
                kept.remove(&Doubt::Naming(naming));
            }
        }
        kept
    }

    fn left(&self, needs: &[Vec<usize>], kept: &BTreeSet<Doubt>, content: Content) -> View {
        let is_kept = |naming: usize| self.namings[naming].safe || kept.contains(&Doubt::Naming(naming));
        let there = with_needs(needs, is_kept);
        let names = self.names_after(|naming| there[naming]);
        self.view(&names, |ino| {
            let inode = &self.inodes[ino];
            let bytes = match kept.contains(&Doubt::Bytes(ino)) || !inode.bytes.is_pending() {
                true => self.bytes(ino).clone(),
                false => spoilt(self.bytes(ino), inode.bytes.get(inode.bytes.safe), content),
            };
            let mode = if kept.contains(&Doubt::Mode(ino)) { inode.mode.last() } else { inode.mode.safe };
            let mtime = if kept.contains(&Doubt::Time(ino)) { inode.mtime.last() } else { inode.mtime.safe };
            (bytes, mode, mtime)
        })
    }

    fn tell(&self, doubt: Doubt) -> String {
        let of = |ino: Ino| {
            let named = self.namings.iter().rev().flat_map(|naming| &naming.sets);
            let name = named.filter(|(_, held)| *held == Some(ino)).map(|(spot, _)| &spot.1[..]).next();
            String::from_utf8_lossy(name.unwrap_or(b"an old inode")).into_owned()
        };
        match doubt {
            Doubt::Naming(naming) => {
                let spots = self.namings[naming].sets.iter();
                let spots: Vec<_> = spots
                    .map(|((dir, name), held)| format!("{dir}/{}={held:?}", String::from_utf8_lossy(name)))
                    .collect();
                format!("names {}", spots.join(" "))
            }
            Doubt::Bytes(ino) => format!("bytes of {}", of(ino)),
            Doubt::Mode(ino) => format!("mode of {}", of(ino)),
            Doubt::Time(ino) => format!("time of {}", of(ino)),
        }
    }
}

/// Which are there, if these are.
fn with_needs(needs: &[Vec<usize>], is_kept: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut there: Vec<bool> = (0..needs.len()).map(is_kept).collect();
    for naming in (0..needs.len()).rev() {
        if there[naming] {
            needs[naming].iter().for_each(|earlier| there[*earlier] = true);
        }
    }
    there
}

fn spoilt(now: &Arc<[u8]>, old: &Arc<[u8]>, content: Content) -> Arc<[u8]> {
    match content {
        Content::Old => old.clone(),
        Content::Half => now[..now.len() / 2].into(),
        Content::Zeros => vec![0; now.len()].into(),
    }
}

/// Tells views apart. Of long files only the length and the ends count: nothing here spoils only the middle.
#[must_use]
pub fn digest(view: &View) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (path, Held { ino, what, bytes, mode, mtime }) in view {
        hasher.update(format!("{path:?} {ino} {what:?} {} {mode} {mtime:?}\n", bytes.len()).as_bytes());
        hasher.update(&bytes[..bytes.len().min(END_BYTES)]);
        hasher.update(&bytes[bytes.len().saturating_sub(END_BYTES)..]);
    }
    *hasher.finalize().as_bytes()
}

/// See [`digest`].
const END_BYTES: usize = 512;

/// Makes a real directory of it, at a path where nothing is. Answers the numbers that the inodes have there. In a name `@N` is
/// replaced by the number of inode N, which is 0 if that is not there.
///
/// # Errors
/// It cannot be made.
pub fn place(view: &View, to: &Path) -> io::Result<HashMap<Ino, u64>> {
    let pool = to.with_extension("pool");
    fs::create_dir(to)?;
    fs::create_dir(&pool)?;
    let mut numbers = HashMap::new();
    for held in view.values() {
        let path = pool.join(held.ino.to_string());
        match &held.what {
            What::Directory => continue,
            _ if numbers.contains_key(&held.ino) => continue,
            What::Link(text) => symlink(std::ffi::OsStr::from_bytes(text), &path)?,
            What::File => {
                fs::write(&path, &held.bytes)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(held.mode.into()))?;
            }
        }
        if let Some(mtime) = held.mtime {
            set_mtime(&path, mtime)?;
        }
        numbers.insert(held.ino, fs::symlink_metadata(&path)?.ino());
    }
    let at = |path: &[u8], numbers: &HashMap<Ino, u64>| -> PathBuf {
        to.join(std::ffi::OsStr::from_bytes(&numbered(path, numbers)))
    };
    for (path, held) in view {
        let placed = at(path, &numbers);
        if held.what == What::Directory {
            fs::create_dir(&placed)?;
            numbers.insert(held.ino, fs::metadata(&placed)?.ino());
        } else {
            fs::hard_link(pool.join(held.ino.to_string()), placed)?;
        }
    }
    for (path, held) in view.iter().rev().filter(|(_, held)| held.what == What::Directory) {
        let placed = at(path, &numbers);
        if let Some(mtime) = held.mtime {
            set_mtime(&placed, mtime)?;
        }
        fs::set_permissions(&placed, fs::Permissions::from_mode(held.mode.into()))?;
    }
    fs::remove_dir_all(&pool)?;
    Ok(numbers)
}

fn numbered(path: &[u8], numbers: &HashMap<Ino, u64>) -> Vec<u8> {
    let mut parts = path.split(|byte| *byte == b'@');
    let mut out = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let digits = part.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let ino = std::str::from_utf8(&part[..digits]).ok().and_then(|digits| digits.parse::<Ino>().ok());
        match ino {
            Some(ino) => out.extend(numbers.get(&ino).copied().unwrap_or(0).to_string().as_bytes()),
            None => out.push(b'@'),
        }
        out.extend(&part[digits..]);
    }
    out
}
