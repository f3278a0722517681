//! `market_reduce`: all parts under `/in` to `/out/suggestions.json` and `/out/market.svg`.
//!
//! Neither the order nor the number of the parts shows in the result. Standard output gets a summary in JSON.

#[path = "market/analysis.rs"]
mod analysis;
#[path = "market/chart.rs"]
mod chart;
#[path = "market/json.rs"]
mod json;
#[path = "market/part.rs"]
mod part;
#[path = "market/stone.rs"]
mod stone;

use analysis::Market;
use part::Part;
use std::fs;
use std::path::Path;

fn main() {
    if let Err(error) = run() {
        eprintln!("market_reduce: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let mut whole: Option<Part> = None;
    let mut parts = 0;
    let folder = fs::read_dir("/in").map_err(|e| format!("cannot list /in: {e}"))?;
    for entry in folder {
        let path = entry.map_err(|e| format!("cannot list /in: {e}"))?.path();
        let part = read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        match &mut whole {
            Some(whole) => whole.merge(&part)?,
            None => whole = Some(part),
        }
        parts += 1;
    }
    let market = Market::new(&whole.ok_or("there is no part under /in")?);
    eprintln!("progress 50/100");
    save("/out/suggestions.json", &json::write(&market))?;
    save("/out/market.svg", &chart::write(&market))?;
    eprintln!("progress 100/100");
    let matching = market.wanted.map_or(0, |s| s.count);
    println!("{{\"parts\":{parts},\"rows\":{},\"matching\":{matching}}}", market.rows);
    Ok(())
}

fn read(path: &Path) -> Result<Part, String> {
    Part::from_text(&fs::read_to_string(path).map_err(|e| e.to_string())?)
}

fn save(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("cannot write {path}: {e}"))
}
