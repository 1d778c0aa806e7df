//! What a bad line does to bytes on their way, by seed and by the number of bytes that pass.

use std::time::Duration;

use crate::rng::Rng;

/// What happens to a connection now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// One bit of a byte is turned over. Nothing below the programs notices.
    Corrupt,
    /// The connection is closed behind this byte, in the middle of whatever it belongs to.
    Cut,
    /// What follows comes that much later.
    Pause(Duration),
}

/// What a line does, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Disturbance {
    /// What happens.
    pub fault: Fault,
    /// How many bytes pass between two faults, on average.
    pub mean_bytes: usize,
    /// Where they happen is a function of this, and of the bytes that pass.
    pub seed: u64,
}

/// One way of a line that disturbs: all connections share it, so a new connection is not spared.
#[derive(Debug)]
pub(crate) struct Noise {
    what: Disturbance,
    rng: Rng,
    /// Bytes until the next fault.
    left: usize,
    pub(crate) faults: u64,
}

impl Noise {
    pub(crate) fn new(what: Disturbance, way: u64) -> Self {
        let mut rng = Rng::new(what.seed.wrapping_mul(2).wrapping_add(way));
        let left = rng.below(2 * what.mean_bytes.max(1));
        Self { what, rng, left, faults: 0 }
    }

    /// Looks at bytes that pass and spoils them where it is their turn. Answers how many of them may pass, and what else is
    /// to be done behind those: a cut or a pause.
    pub(crate) fn meets(&mut self, bytes: &mut [u8]) -> (usize, Option<Fault>) {
        let mut at = 0;
        while self.left < bytes.len() - at {
            at += self.left + 1;
            self.left = self.rng.below(2 * self.what.mean_bytes.max(1));
            self.faults += 1;
            match self.what.fault {
                Fault::Corrupt => bytes[at - 1] ^= 1 << self.rng.below(8),
                fault => return (at, Some(fault)),
            }
        }
        self.left -= bytes.len() - at;
        (bytes.len(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(fault: Fault) -> Noise {
        Noise::new(Disturbance { fault, mean_bytes: 100, seed: 7 }, 0)
    }

    /// Where bits are turned over, if the bytes come in pieces of this size.
    fn spoiled(piece: usize) -> Vec<usize> {
        let mut bytes = vec![0; 10_000];
        let mut noise = noise(Fault::Corrupt);
        for piece in bytes.chunks_mut(piece) {
            assert_eq!(noise.meets(piece), (piece.len(), None));
        }
        assert!(bytes.iter().all(|byte| byte.count_ones() <= 1));
        (0..bytes.len()).filter(|at| bytes[*at] != 0).collect()
    }

    #[test]
    fn what_is_spoiled_depends_on_the_seed_and_not_on_the_pieces() {
        let places = spoiled(10_000);
        assert!((60..160).contains(&places.len()), "{places:?}");
        for piece in [1, 7, 99, 4096] {
            assert_eq!(spoiled(piece), places);
        }
    }

    #[test]
    fn a_cut_lets_through_what_was_before_it() {
        let mut noise = noise(Fault::Cut);
        let first = noise.left + 1;
        assert_eq!(noise.meets(&mut vec![0; 10_000]), (first, Some(Fault::Cut)));
        let second = noise.left + 1;
        assert_eq!(noise.meets(&mut vec![0; 10_000]), (second, Some(Fault::Cut)));
        assert_eq!(noise.faults, 2);
    }
}
