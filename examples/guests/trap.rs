//! `trap`: traps at once, as a broken program does.

fn main() {
    println!("about to trap");
    std::process::abort();
}
