//! `cargo bench -p diai-benches`: measures, and prints the table of the README.

fn main() {
    diai_benches::main();
}
