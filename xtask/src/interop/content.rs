//! Files and folders to exchange: the same in every run.

use std::{fs, path::Path};

use crate::Outcome;

/// Bytes that look random.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A folder of folders, with names in several scripts, an empty file and files around the length of a chunk.
pub(crate) fn tree(path: &Path) -> Outcome {
    fs::create_dir_all(path.join("ein Ordner/глубже/もっと深く"))?;
    fs::write(path.join("empty"), [])?;
    for (number, length) in [1, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000].into_iter().enumerate() {
        fs::write(path.join(format!("ein Ordner/файл {number}.bin")), bytes(number as u64, length))?;
    }
    fs::write(path.join("ein Ordner/глубже/もっと深く/終わり.txt"), "here it ends")?;
    Ok(())
}

/// A folder of `count` files of `length` bytes each: enough of them make it a HAMT.
pub(crate) fn many(path: &Path, count: u64, length: usize) -> Outcome {
    fs::create_dir_all(path)?;
    for number in 0..count {
        fs::write(path.join(format!("a file with a rather long name, number {number:06}.bin")), bytes(number, length))?;
    }
    Ok(())
}
