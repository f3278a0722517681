//! `flood`: writes without end; for the output limit. `flood file` floods `/out/flood` instead of standard output.

use std::io::Write;

fn main() {
    let block = [b'~'; 64 * 1024];
    let to_file = std::env::args().nth(1).as_deref() == Some("file");
    let mut sink: Box<dyn Write> = match std::fs::File::create("/out/flood") {
        Ok(file) if to_file => Box::new(file),
        _ => Box::new(std::io::stdout()),
    };
    // Errors are ignored on purpose: only the limit ends this.
    loop {
        drop(sink.write_all(&block));
    }
}
