//! How fast small files get to their places: stages, verifies and places them from several threads.
//!
//! `cargo run --release -p sync-tree --example apply_speed -- /dev/shm 100000 2`

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use sync_core::{Content, Digest, Entry, Time, TreePath};
use sync_tree::{
    apply::{Applier, ApplyOptions, Displaced, Durability, Expect, Place},
    hash::Identity,
    rooted::Root,
    state::{StateDir, StateOptions},
};

const FILE_BYTES: usize = 4096;
const FILES_IN_A_DIRECTORY: usize = 1000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let base = PathBuf::from(args.next().unwrap_or_else(|| "/dev/shm".into()));
    let files: usize = args.next().map_or(Ok(100_000), |text| text.parse())?;
    let threads: usize = args.next().map_or(Ok(2), |text| text.parse())?;
    let scratch = tempfile::Builder::new().prefix("apply-speed-").tempdir_in(base)?;
    let root = Root::open(scratch.path())?;
    let work = StateDir::open(&root, &StateOptions::default())?.work.ok_or("it cannot be written")?;
    let options =
        ApplyOptions { durability: Durability::None, trash_run: "run".into(), trash_keep: Duration::ZERO };
    let applier = Applier::open(root.clone(), &work, options)?;
    for pass in ["create", "replace"] {
        let began = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn({
                        let (root, applier) = (&root, &applier);
                        move || work_task(root, applier, thread, files / threads)
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no thread panics"))
        })?;
        let took = began.elapsed().as_secs_f64();
        println!("{pass}: {files} files in {took:.3} s, {:.0} files/s", files as f64 / took);
    }
    Ok(())
}

fn work_task(root: &Root, applier: &Applier, thread: usize, files: usize) -> Result<(), Failure> {
    let mut bytes = [0; FILE_BYTES];
    for first in (0..files).step_by(FILES_IN_A_DIRECTORY) {
        let path = TreePath::new(&format!("d{thread}-{first}"))?;
        let top = root.dir();
        let dir_place = Place { dir: &top, name: path.as_str(), path: &path };
        let is_new = applier.make_dir(&dir_place).is_ok();
        let dir = root.open_dir(&path)?;
        for i in first..files.min(first + FILES_IN_A_DIRECTORY) {
            bytes[..8].copy_from_slice(&i.to_le_bytes());
            let digest = Digest::of(&bytes);
            let name = format!("file-{i}.txt");
            let expect = if is_new { Expect::Nothing } else { Expect::File(Identity::of(&dir.stat(&name)?)) };
            let content = Content::File { size: FILE_BYTES as u64, digest };
            let entry = Entry { content, mtime: Time { secs: 1_700_000_000, nanos: 5 }, mode: 0o644 };
            let path = path.join(&name);
            let place = Place { dir: &dir, name: &name, path: &path };
            applier.place(
                applier.stage_bytes(&bytes, &digest, 0o644)?,
                &place,
                &entry,
                &expect,
                Displaced::Delete,
            )?;
        }
    }
    Ok(())
}
