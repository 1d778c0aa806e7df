//! Files that say what they are: the bytes of a version depend on nothing but its path and its number, so that any file
//! that is found anywhere can be checked to be one complete version, and which.

use crate::rng::Rng;

/// How large a file is, and how its versions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// All bytes of that many are other ones in each version.
    Bytes(usize),
    /// All versions are the same but for some places, as those of a disk image.
    Mostly(usize),
}

/// What every file begins with: what it is, and a sum of that, so that no wrong bit makes another version of an empty file.
const HEADER: usize = 48;
/// So much of [`Shape::Mostly`] is one place, and one place in four is of its version.
const PLACE: usize = 64 << 10;

/// The bytes of a version.
#[must_use]
pub fn contents(path: &str, version: u64, shape: Shape) -> Vec<u8> {
    let (mostly, size) = match shape {
        Shape::Bytes(size) => (0_u64, size),
        Shape::Mostly(size) => (1, size),
    };
    let mut bytes = Vec::with_capacity(size + HEADER);
    let sum = hash(&format!("{version} {mostly} {size} {path}"));
    let path = hash(path);
    for word in [0x7ab1_e5c0_de00_0001, path, version, mostly, size as u64, sum] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let mut number = 0;
    while bytes.len() < HEADER + size {
        let is_own = mostly == 0 || number % 4 == version % 4;
        let seed = path ^ number.rotate_left(20) ^ if is_own { (version + 1).rotate_left(44) } else { 0 };
        bytes.extend_from_slice(&Rng::new(seed).bytes(PLACE.min(HEADER + size - bytes.len())));
        number += 1;
    }
    bytes
}

/// The version that a file found at a path is.
///
/// # Errors
/// Says what is wrong with it: it is torn, or belongs to another path.
pub fn version_of(path: &str, bytes: &[u8]) -> Result<u64, String> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(format!("{path} with {} bytes has not even a beginning", bytes.len()));
    };
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| header[at * 8 + byte]));
    let (version, size) = (word(2), word(4));
    let shape = if word(3) == 0 { Shape::Bytes } else { Shape::Mostly };
    // What is announced is not trusted: nothing is made that is larger than the file.
    if size != (bytes.len() - HEADER) as u64 {
        return Err(format!(
            "{path} with {} bytes should have {}",
            bytes.len(),
            size.saturating_add(HEADER as u64)
        ));
    }
    let whole = contents(path, version, shape(bytes.len() - HEADER));
    match whole.iter().zip(bytes).position(|(expected, found)| expected != found) {
        None => Ok(version),
        Some(at) => {
            Err(format!("{path} with {} bytes is not its version {version} from byte {at} on", bytes.len()))
        }
    }
}

fn hash(path: &str) -> u64 {
    let digest = blake3::hash(path.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|at| digest.as_bytes()[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_known_and_everything_else_is_not() {
        for shape in [Shape::Bytes(0), Shape::Bytes(1), Shape::Bytes(200_000), Shape::Mostly(700_000)] {
            let bytes = contents("a/b", 7, shape);
            assert_eq!(version_of("a/b", &bytes), Ok(7));
            assert!(version_of("a/c", &bytes).is_err(), "{shape:?}: of another path");
            assert!(version_of("a/b", &bytes[..bytes.len() - 1]).is_err(), "{shape:?}: cut off");
            assert!(version_of("a/b", &[&bytes[..], b"x"].concat()).is_err(), "{shape:?}: longer");
            for at in (0..bytes.len()).step_by(bytes.len() / 40 + 1) {
                let mut torn = bytes.clone();
                torn[at] ^= 16;
                assert!(version_of("a/b", &torn).is_err(), "{shape:?}: wrong at {at}");
            }
        }
        assert!(version_of("a", b"").is_err());
    }

    #[test]
    fn two_versions_mixed_are_torn() {
        for shape in [Shape::Bytes(400_000), Shape::Mostly(700_000)] {
            let [one, two] = [1, 2].map(|version| contents("a", version, shape));
            assert_eq!(one.len(), two.len());
            let mixed = [&one[..300_000], &two[300_000..]].concat();
            assert!(version_of("a", &mixed).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn most_of_a_large_file_stays() {
        let [one, two] = [1, 2].map(|version| contents("a", version, Shape::Mostly(4 << 20)));
        let same = one.chunks(4096).zip(two.chunks(4096)).filter(|(one, two)| one == two).count();
        assert!((400..700).contains(&same), "{same} of 1024 pieces");
    }
}
