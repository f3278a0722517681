//! From the merged market to figures and advice.

use crate::part::{Cell, Part, AFFORDABLE, CELLS, WANTED};
use crate::stone::{money, weight, Stone, Wish, CLARITIES, COLORS, CUTS};
use std::collections::BTreeMap;

/// Five figures of a price distribution, in cents.
#[derive(Clone, Copy)]
pub struct Spread {
    pub count: u64,
    pub min: i64,
    pub lower: i64,
    pub median: i64,
    pub upper: i64,
    pub max: i64,
}

impl Spread {
    /// Quartiles are interpolated linearly between the sorted prices and rounded to a cent.
    pub fn of(prices: &BTreeMap<i64, u64>) -> Option<Spread> {
        let (&min, &max) = (prices.keys().next()?, prices.keys().next_back()?);
        let count: u64 = prices.values().sum();
        let quartile = |k: u64| {
            let place = (count - 1) * k;
            let (low, high) = (nth(prices, place / 4), nth(prices, (place / 4 + 1).min(count - 1)));
            low + ((high - low) * (place % 4) as i64 + 2) / 4
        };
        Some(Spread { count, min, lower: quartile(1), median: quartile(2), upper: quartile(3), max })
    }
}

fn nth(prices: &BTreeMap<i64, u64>, place: u64) -> i64 {
    let mut passed = 0;
    for (&price, &count) in prices {
        passed += count;
        if place < passed {
            return price;
        }
    }
    0
}

/// One step away from the wish in one property.
pub struct Neighbour {
    /// `weight`, `cut`, `colour` or `clarity`.
    pub property: &'static str,
    pub better: bool,
    /// What it has instead, such as `H` or `0.55 to 0.65 ct`.
    pub has: String,
    pub spread: Option<Spread>,
    /// Median of the wanted stones less the median here; negative when it costs more.
    pub saves: Option<i64>,
    pub cheapest: Option<Stone>,
}

pub struct Market {
    pub wish: Wish,
    pub rows: u64,
    pub bad: u64,
    pub prices: BTreeMap<i64, u64>,
    pub wanted: Option<Spread>,
    pub cheapest: Option<Stone>,
    /// Wanted stones within the budget.
    pub within: u64,
    pub neighbours: Vec<Neighbour>,
    pub affordable: u64,
    pub best: Vec<Stone>,
}

impl Market {
    pub fn new(part: &Part) -> Market {
        let wish = part.wish;
        let cell = &part.cells[WANTED];
        let wanted = Spread::of(&cell.prices);
        let neighbours = (1..AFFORDABLE)
            .filter_map(|k| Some(neighbour(k, instead(k, &wish)?, &part.cells[k], wanted)))
            .collect();
        Market {
            wish,
            rows: part.rows,
            bad: part.bad,
            wanted,
            cheapest: cell.stones.first().copied(),
            within: cell.prices.range(..=wish.budget).map(|(_, n)| n).sum(),
            prices: cell.prices.clone(),
            neighbours,
            affordable: part.cells[AFFORDABLE].prices.values().sum(),
            best: part.cells[AFFORDABLE].stones.clone(),
        }
    }

    /// For each property the neighbour with the lower median.
    pub fn cheapest_neighbours(&self) -> Vec<&Neighbour> {
        let priced = |n: &&Neighbour| n.spread.is_some();
        let median = |n: &&Neighbour| n.spread.map(|s| s.median);
        let of = |property| self.neighbours.iter().filter(move |n| n.property == property);
        ["weight", "cut", "colour", "clarity"].iter().filter_map(|p| of(*p).filter(priced).min_by_key(median)).collect()
    }

    /// Sentences for the customer, the most useful first.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = vec![self.price_sentence(), self.budget_sentence()];
        let mut steps: Vec<&Neighbour> = self.cheapest_neighbours().into_iter().filter(|n| n.saves > Some(0)).collect();
        steps.sort_by_key(|n| (-n.saves.unwrap_or(0), n.property));
        advice.extend(steps.iter().filter_map(|n| self.saving_sentence(n)));
        advice.extend(self.neighbours.iter().filter_map(|n| self.upgrade_sentence(n)));
        if let Some(best) = self.best.first().filter(|b| b.describe() != self.wish.describe()) {
            advice.push(format!(
                "Of the {} stones within the budget that are at least as good in everything, the finest is {} for {}.",
                self.affordable,
                best.describe(),
                money(best.price)
            ));
        }
        advice
    }

    fn price_sentence(&self) -> String {
        let stone = self.wish.describe();
        match self.wanted {
            None => format!("None of the {} stones on offer is {stone}.", self.rows),
            Some(s) => format!(
                "{stone}: {} at the median of {} stones; the middle half costs {} to {}.",
                dollars(s.median),
                s.count,
                dollars(s.lower),
                dollars(s.upper)
            ),
        }
    }

    fn budget_sentence(&self) -> String {
        let budget = money(self.wish.budget);
        match self.wanted {
            None => format!("The budget of {budget} buys {} stones at least as good.", self.affordable),
            Some(s) if self.within == 0 => {
                let short = money(s.min - self.wish.budget);
                format!("The budget of {budget} is {short} short of the cheapest ({}).", money(s.min))
            }
            Some(s) => format!(
                "The budget of {budget} covers {} of {} ({} %); the cheapest costs {}.",
                self.within,
                s.count,
                (self.within * 100 + s.count / 2) / s.count,
                money(s.min)
            ),
        }
    }

    fn saving_sentence(&self, n: &Neighbour) -> Option<String> {
        let (spread, saves, wanted) = (n.spread?, n.saves?, self.wanted?);
        let fits = match spread.median <= self.wish.budget {
            true if wanted.median > self.wish.budget => ", which brings the median within the budget",
            _ => "",
        };
        Some(format!(
            "{} in {} ({}): {} at the median, saves {} ({} %){fits}.",
            if n.better { "One step up" } else { "One step down" },
            n.property,
            n.has,
            dollars(spread.median),
            dollars(saves),
            percent(saves, wanted.median)
        ))
    }

    /// Better stones that cost less or at most a twentieth more.
    fn upgrade_sentence(&self, n: &Neighbour) -> Option<String> {
        let (saves, wanted) = (n.saves?, self.wanted?);
        if !n.better || saves > 0 || -saves * 20 > wanted.median {
            return None;
        }
        let (property, has, more) = (n.property, &n.has, dollars(-saves));
        Some(format!("A step up in {property} ({has}) costs only {more} more at the median."))
    }
}

/// Whole dollars, for sentences.
pub fn dollars(cents: i64) -> String {
    money((cents + 50).div_euclid(100) * 100)
}

/// Rounded share in per cent.
pub fn percent(part: i64, whole: i64) -> i64 {
    (part * 200 + whole).div_euclid(2 * whole)
}

fn neighbour(cell: usize, has: String, from: &Cell, wanted: Option<Spread>) -> Neighbour {
    let spread = Spread::of(&from.prices);
    Neighbour {
        property: ["weight", "cut", "colour", "clarity"][(cell - 1) / 2],
        better: CELLS[cell].ends_with('+'),
        has,
        saves: wanted.and_then(|w| Some(w.median - spread?.median)),
        spread,
        cheapest: from.stones.first().copied(),
    }
}

/// What the neighbours of a cell have instead; `None` beyond the end of a scale.
fn instead(cell: usize, wish: &Wish) -> Option<String> {
    let better = CELLS[cell].ends_with('+');
    let step = |scale: &[&str], at: usize| {
        let place = if better { at + 1 } else { at.checked_sub(1)? };
        scale.get(place).map(|grade| grade.to_string())
    };
    match (cell - 1) / 2 {
        0 if better => Some(window(wish.carat + wish.tolerance, wish.carat + 3 * wish.tolerance)),
        0 => Some(window((wish.carat - 3 * wish.tolerance).max(1), wish.carat - wish.tolerance)),
        1 => step(&CUTS, wish.cut),
        2 => step(&COLORS, wish.color),
        _ => step(&CLARITIES, wish.clarity),
    }
}

fn window(low: i64, high: i64) -> String {
    format!("{}\u{2013}{} ct", weight(low), weight(high))
}
