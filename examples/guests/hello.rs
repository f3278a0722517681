//! `hello`: greets its arguments and repeats its standard input; without arguments it greets whoever stands there.

use std::io::{Read, Write};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let greeting = if args.is_empty() { "hello, ".to_string() } else { format!("hello, {}\n", args.join(" ")) };
    let mut output = greeting.into_bytes();
    if let Err(error) = std::io::stdin().read_to_end(&mut output) {
        eprintln!("hello: cannot read: {error}");
        std::process::exit(1);
    }
    if let Err(error) = std::io::stdout().write_all(&output) {
        eprintln!("hello: cannot write: {error}");
        std::process::exit(1);
    }
}
