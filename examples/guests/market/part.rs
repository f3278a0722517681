//! What one part of the market says about a wish: exact, and the same however the market is cut into parts.

#![allow(dead_code)] // Map and reduce each use their half.

use crate::stone::{Stone, Wish};
use std::collections::BTreeMap;

pub const MAGIC: &str = "diai-market-part 1";
/// The wanted stones, their neighbours one step away, and what the budget buys that is at least as good.
pub const CELLS: [&str; 10] =
    ["wanted", "carat-", "carat+", "cut-", "cut+", "color-", "color+", "clarity-", "clarity+", "affordable"];
pub const WANTED: usize = 0;
pub const AFFORDABLE: usize = 9;
/// Stones named in each cell.
const NAMED: usize = 3;

/// How often each price occurs, and the foremost stones.
#[derive(Default)]
pub struct Cell {
    pub prices: BTreeMap<i64, u64>,
    pub stones: Vec<Stone>,
}

pub struct Part {
    pub wish: Wish,
    pub rows: u64,
    pub bad: u64,
    pub cells: Vec<Cell>,
}

impl Part {
    pub fn new(wish: Wish) -> Part {
        Part { wish, rows: 0, bad: 0, cells: CELLS.iter().map(|_| Cell::default()).collect() }
    }

    /// Counts one stone.
    pub fn add(&mut self, stone: Stone) {
        self.rows += 1;
        for cell in cells_of(&self.wish, &stone) {
            *self.cells[cell].prices.entry(stone.price).or_default() += 1;
            self.name(cell, stone);
        }
    }

    /// Keeps the foremost stones by a total order, so that merging knows no sequence.
    fn name(&mut self, cell: usize, stone: Stone) {
        let wish = self.wish;
        let order = move |s: &Stone| {
            let better = s.cut + s.color + s.clarity;
            let rank = if cell == AFFORDABLE { (better as i64, s.carat) } else { (0, 0) };
            (-rank.0, -rank.1, s.price, (s.carat - wish.carat).abs(), s.carat, s.cut, s.color, s.clarity)
        };
        let stones = &mut self.cells[cell].stones;
        let place = stones.iter().position(|s| order(&stone) < order(s)).unwrap_or(stones.len());
        stones.insert(place, stone);
        stones.truncate(NAMED);
    }

    /// Adds another part of the same market.
    pub fn merge(&mut self, other: &Part) -> Result<(), String> {
        if other.wish != self.wish {
            return Err("the parts answer different wishes".into());
        }
        self.rows += other.rows;
        self.bad += other.bad;
        for (cell, from) in other.cells.iter().enumerate() {
            for (&price, &count) in &from.prices {
                *self.cells[cell].prices.entry(price).or_default() += count;
            }
            for &stone in &from.stones {
                self.name(cell, stone);
            }
        }
        Ok(())
    }

    pub fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}\n{}\nrows {}\nbad {}\n", self.wish.to_line(), self.rows, self.bad);
        for (cell, name) in self.cells.iter().zip(CELLS) {
            text.push_str(&format!("cell {name}\n"));
            for (price, count) in &cell.prices {
                text.push_str(&format!("price {price} {count}\n"));
            }
            for stone in &cell.stones {
                text.push_str(&format!("stone {}\n", stone.to_line()));
            }
        }
        text.push_str("end\n");
        text
    }

    pub fn from_text(text: &str) -> Result<Part, String> {
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) || !text.ends_with("end\n") {
            return Err("not a whole market part".into());
        }
        let wish = lines.next().and_then(Wish::from_line).ok_or("the wish cannot be read")?;
        let mut part = Part::new(wish);
        let mut cell = WANTED;
        for line in lines {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let good = match kind {
                "rows" => rest.parse().map(|rows| part.rows = rows).is_ok(),
                "bad" => rest.parse().map(|bad| part.bad = bad).is_ok(),
                "cell" => CELLS.iter().position(|name| *name == rest).map(|place| cell = place).is_some(),
                "price" => price_line(rest)
                    .map(|(price, count)| part.cells[cell].prices.insert(price, count))
                    .is_some(),
                "stone" => Stone::from_line(rest).map(|stone| part.name(cell, stone)).is_some(),
                "end" => true,
                _ => false,
            };
            if !good {
                return Err(format!("`{line}` cannot be read"));
            }
        }
        Ok(part)
    }
}

fn price_line(rest: &str) -> Option<(i64, u64)> {
    let (price, count) = rest.split_once(' ')?;
    Some((price.parse().ok().filter(|p| *p > 0)?, count.parse().ok().filter(|c| *c > 0)?))
}

/// The cells that a stone belongs to. A step in weight is a window as wide as the wanted one, next to it.
fn cells_of(wish: &Wish, stone: &Stone) -> Vec<usize> {
    let mut cells = Vec::new();
    let away = stone.carat - wish.carat;
    let step = |have: usize, want: usize| have as i64 - want as i64;
    let (cut, color, clarity) =
        (step(stone.cut, wish.cut), step(stone.color, wish.color), step(stone.clarity, wish.clarity));
    let side = |step: i64| usize::from(step > 0);
    let near = away.abs() <= wish.tolerance;
    match (cut, color, clarity) {
        (0, 0, 0) if near => cells.push(WANTED),
        (0, 0, 0) if away.abs() <= 3 * wish.tolerance => cells.push(1 + side(away)),
        (-1 | 1, 0, 0) if near => cells.push(3 + side(cut)),
        (0, -1 | 1, 0) if near => cells.push(5 + side(color)),
        (0, 0, -1 | 1) if near => cells.push(7 + side(clarity)),
        _ => {}
    }
    if away >= -wish.tolerance && cut >= 0 && color >= 0 && clarity >= 0 && stone.price <= wish.budget {
        cells.push(AFFORDABLE);
    }
    cells
}
