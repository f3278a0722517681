//! The guest programs: WASI command modules, built from `guests/*.rs` by `guests/build.sh`.
//!
//! Those of the story report `progress N/100` on standard error, write their files under `/out`, and end with a summary
//! in JSON on standard output.

/// From an idea (standard input, see [`Idea::canonical`](crate::collaborative_prototyping::idea::Idea::canonical))
/// to `/out/model.stl` and `/out/model.png`. Some 13 billion units of fuel (18 allows for every idea), 70 MiB of memory.
pub const RING: &[u8] = include_bytes!("guests/ring.wasm");

/// From a part of the market (CSV, standard input) and a wish (arguments) to `/out/part.txt`.
pub const MARKET_MAP: &[u8] = include_bytes!("guests/market_map.wasm");

/// From all parts under `/in` to `/out/suggestions.json` and `/out/market.svg`.
pub const MARKET_REDUCE: &[u8] = include_bytes!("guests/market_reduce.wasm");

/// Greets its arguments and repeats its standard input.
pub const HELLO: &[u8] = include_bytes!("guests/hello.wasm");

/// Never ends.
pub const SPIN: &[u8] = include_bytes!("guests/spin.wasm");

/// Takes memory without end.
pub const HOG: &[u8] = include_bytes!("guests/hog.wasm");

/// Writes without end: to standard output, or to `/out/flood` with the argument `file`.
pub const FLOOD: &[u8] = include_bytes!("guests/flood.wasm");

/// Traps at once.
pub const TRAP: &[u8] = include_bytes!("guests/trap.wasm");

/// Every guest with the name of its file.
pub const ALL: [(&str, &[u8]); 8] = [
    ("flood.wasm", FLOOD),
    ("hello.wasm", HELLO),
    ("hog.wasm", HOG),
    ("market_map.wasm", MARKET_MAP),
    ("market_reduce.wasm", MARKET_REDUCE),
    ("ring.wasm", RING),
    ("spin.wasm", SPIN),
    ("trap.wasm", TRAP),
];

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the test compares files")]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};
    use std::collections::BTreeMap;
    use std::path::Path;

    fn hex(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn sums() -> BTreeMap<&'static str, &'static str> {
        let lines = include_str!("guests/SHA256SUMS").lines();
        lines.map(|line| line.split_once("  ").map(|(sum, name)| (name, sum)).expect("sum and name")).collect()
    }

    #[test]
    fn the_included_programs_are_those_that_the_build_script_recorded() {
        let sums = sums();
        for (name, program) in ALL {
            assert_eq!(sums.get(name).copied(), Some(hex(program).as_str()), "{name}: run guests/build.sh");
            assert_eq!(&program[..8], b"\0asm\x01\0\0\0", "{name}");
        }
        assert_eq!(sums.keys().filter(|name| name.ends_with(".wasm")).count(), ALL.len());
    }

    #[test]
    fn no_guest_source_has_changed_since_its_program_was_built() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests");
        let sums = sums();
        let mut seen = 0;
        let mut folders = vec![folder.clone()];
        while let Some(at) = folders.pop() {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let name = path.strip_prefix(&folder).unwrap().to_str().unwrap().replace('\\', "/");
                    let sum = hex(&std::fs::read(&path).unwrap());
                    assert_eq!(sums.get(name.as_str()).copied(), Some(sum.as_str()), "{name}: run guests/build.sh");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, sums.keys().filter(|name| name.ends_with(".rs")).count());
    }
}
