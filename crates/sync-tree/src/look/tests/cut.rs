//! The program ends between two transactions of a look.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::probe::{self, Call, Op, Probe};

/// Lets so many transactions through, and no more.
struct After(AtomicUsize);

impl Probe for After {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let left = |left: usize| left.checked_sub(1);
        match call.op {
            Op::Commit if self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_err() => {
                Err(io::ErrorKind::Other.into())
            }
            _ => Ok(()),
        }
    }
}

impl Scene {
    /// A look that ends after so many transactions. Answers whether it came to its end before.
    fn cut_look(&self, transactions: usize) -> bool {
        let _listening = probe::install(&self.root, Arc::new(After(AtomicUsize::new(transactions))));
        self.looker.look(&Scope::Everything, &NoObserver, &LookLimits::default()).is_ok()
    }

    fn root_digest(&self) -> sync_core::Digest {
        self.looker.index().head().unwrap().root_digest
    }
}

#[test]
fn nothing_is_left_in_a_directory_that_became_a_file_wherever_a_look_ends() {
    let mut ended = false;
    for transactions in 0..10 {
        let scene = Scene::new();
        scene.write("there/deep/one", "1");
        scene.write("there/two", "2");
        scene.write("other", "3");
        scene.look_at_all();
        let dir = scene.id("there").unwrap();
        fs::remove_dir_all(scene.root.join("there")).unwrap();
        scene.write("there", "a file");
        ended = scene.cut_look(transactions);
        scene.look_at_all();
        assert_eq!(scene.id("there"), Some(dir), "the name keeps its node");
        let left: Vec<_> = scene.looker.index().children(dir).unwrap();
        assert!(left.is_empty(), "after {transactions} transactions: {left:?}");
        assert_eq!(scene.looker.index().head().unwrap().files, 2);
        let fresh = Scene::new();
        for name in ["there", "other"] {
            fs::copy(scene.root.join(name), fresh.root.join(name)).unwrap();
            let time = fs::metadata(scene.root.join(name)).unwrap().modified().unwrap();
            fs::File::open(fresh.root.join(name)).unwrap().set_modified(time).unwrap();
        }
        fresh.look_at_all();
        assert_eq!(scene.root_digest(), fresh.root_digest(), "after {transactions} transactions");
        if ended {
            break;
        }
    }
    assert!(ended, "no look came to its end");
}
