//! `spin`: never ends; for the fuel and time limits.

fn main() {
    println!("spinning");
    let mut state = std::env::args().count() as u64 | 1;
    // A shift register that started above zero never gets there.
    while state != 0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    println!("unreachable");
}
