//! Random operations: an index kept up by events equals one made anew from the disk.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A small generator of our own: the same seed does the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    /// A path of one to three of few names, so that operations meet each other.
    fn path(&mut self, root: &Path) -> PathBuf {
        let mut path = root.to_path_buf();
        for _ in 0..=self.roll(3) {
            path.push(["a", "b", "c", "d", "中"][self.roll(5)]);
        }
        path
    }
}

/// Does one thing, or nothing where it is not possible.
fn act(dice: &mut Dice, root: &Path) {
    let (path, other) = (dice.path(root), dice.path(root));
    let content = "x".repeat(dice.roll(50));
    // What is not possible at this moment is no operation.
    let _ = match dice.roll(12) {
        0..=2 => fs::write(&path, content),
        3 | 4 => fs::create_dir_all(&path),
        5 => fs::remove_file(&path),
        6 => fs::remove_dir_all(&path),
        7 | 8 => fs::rename(&path, &other),
        9 => std::os::unix::fs::symlink(&content, &path),
        10 => fs::set_permissions(&path, fs::Permissions::from_mode([0o700, 0o755, 0o777][dice.roll(3)])),
        _ => swap(&path, &other),
    };
}

fn swap(path: &Path, other: &Path) -> std::io::Result<()> {
    let aside = path.with_extension("aside");
    fs::rename(path, &aside)?;
    let result = fs::rename(other, path);
    fs::rename(&aside, if result.is_ok() { other } else { path })
}

fn torture(seed: u64, rounds: usize) {
    let scene = Scene::start();
    let mut dice = Dice(seed);
    for _ in 0..rounds {
        for _ in 0..=dice.roll(40) {
            act(&mut dice, &scene.root);
        }
        if let Err(error) = scene.barrier() {
            // So few files may all be gone at once.
            assert!(matches!(error, BarrierError::Halted { .. }), "{error}");
            scene.write("a-new-file", "x");
            scene.until("life", || scene.state() == TreeState::Ready);
            scene.barrier().unwrap();
        }
        assert_kept_up(&scene);
    }
}

#[test]
fn random_operations_leave_the_index_equal_to_the_disk() {
    for seed in 1..=6 {
        eprintln!("seed {seed}");
        torture(0x9e37_79b9_7f4a_7c15 ^ seed, 25);
    }
}

#[test]
fn random_operations_without_a_barrier_are_caught_up_with() {
    let scene = Scene::start();
    scene.write("always-there", "x");
    let mut dice = Dice(0x1234_5678_9abc_def1);
    for _ in 0..4 {
        for _ in 0..500 {
            act(&mut dice, &scene.root);
        }
        let (_, want) = rebuilt(&scene.root);
        let mut left = String::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // The index may change between two of the pages: then there is no list of it.
            left =
                listing(&scene.tree.index()).map_or("no list".to_owned(), |kept| differences(&kept, &want));
            if left.is_empty() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert_eq!(left, "");
    }
}
