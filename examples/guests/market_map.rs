//! `market_map`: one part of the market (CSV on standard input) and a wish (arguments) to `/out/part.txt`.
//!
//! Standard output gets a summary in JSON.

#[path = "market/part.rs"]
mod part;
#[path = "market/stone.rs"]
mod stone;

use part::Part;
use std::io::BufRead;
use stone::{Columns, Wish};

fn main() {
    if let Err(error) = run() {
        eprintln!("market_map: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let args: Vec<String> = std::env::args().collect();
    let mut part = Part::new(Wish::from_args(&args)?);
    let mut lines = std::io::stdin().lock().lines();
    let header = lines.next().and_then(Result::ok).ok_or("the input is empty")?;
    let columns = Columns::find(&header)?;
    eprintln!("progress 1/100");
    for line in lines {
        let line = line.map_err(|e| format!("cannot read the input: {e}"))?;
        match columns.read(&line) {
            Some(stone) => part.add(stone),
            None if line.trim().is_empty() => {}
            None => part.bad += 1,
        }
    }
    std::fs::write("/out/part.txt", part.to_text()).map_err(|e| format!("cannot write /out/part.txt: {e}"))?;
    let matching: u64 = part.cells[part::WANTED].prices.values().sum();
    eprintln!("progress 100/100");
    println!("{{\"rows\":{},\"bad_rows\":{},\"matching\":{matching}}}", part.rows, part.bad);
    Ok(())
}
