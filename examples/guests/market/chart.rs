//! `market.svg`: the price distribution of the wanted stone above its neighbours, on one price axis.

use crate::analysis::{dollars, Market, Neighbour, Spread};

const LEFT: i64 = 190;
const RIGHT: i64 = 850;
const TOP: i64 = 124;
const FLOOR: i64 = 300;
const FIRST_ROW: i64 = 386;
const ROW: i64 = 31;
const STYLE: &str = "<style>\
.p{fill:#fff}.t{fill:#1d1b18}.m{fill:#6f6a62}.g{stroke:#e6e2da}.bar{fill:#cfc6b4}.in{fill:#b08d3e}\
.box{fill:#d9d2c4}.wb{fill:#b08d3e}.wh{stroke:#a39b8b}.med{stroke:#1d1b18}.bud{stroke:#2f6f5e}.bt{fill:#2f6f5e}\
.save{fill:#2f6f5e}.cost{fill:#8c857a}\
text{font-family:ui-sans-serif,system-ui,-apple-system,'Segoe UI','Helvetica Neue',Arial,sans-serif;font-size:12px}\
.h{font-family:Georgia,'Times New Roman',serif;font-size:23px}.s{font-size:13px}\
@media (prefers-color-scheme:dark){.p{fill:#191816}.t{fill:#f1ede5}.m{fill:#a49d91}.g{stroke:#34312c}\
.bar{fill:#4b463c}.in{fill:#c9a452}.box{fill:#4b463c}.wb{fill:#c9a452}.wh{stroke:#6f685b}.med{stroke:#f1ede5}\
.bud{stroke:#6cc0a6}.bt{fill:#6cc0a6}.save{fill:#6cc0a6}.cost{fill:#8c857a}}\
@media print{.p{fill:#fff}.t{fill:#1d1b18}.m{fill:#6f6a62}.med{stroke:#1d1b18}}\
</style>";

/// The shared price axis, in cents.
struct Axis {
    low: i64,
    high: i64,
    step: i64,
}

impl Axis {
    fn new(market: &Market) -> Axis {
        let spreads: Vec<Spread> = market.neighbours.iter().filter_map(|n| n.spread).collect();
        let mins = market.wanted.iter().chain(&spreads).map(|s| s.min).chain([market.wish.budget]);
        let low = mins.min().unwrap_or(0);
        // Far outliers of the neighbours are cut off; the wanted stones are shown whole.
        let highs = spreads.iter().map(|s| s.upper + (s.upper - s.lower) / 2);
        let high = highs.chain(market.wanted.map(|s| s.max)).chain([market.wish.budget]).max().unwrap_or(100);
        let span = (high - low).max(100);
        let steps = [1, 2, 5].iter().flat_map(|m| (2..10).map(move |e| m * 10i64.pow(e)));
        let step = steps.filter(|s| span / s <= 9).min().unwrap_or(span);
        let low = low.div_euclid(step) * step;
        Axis { low, high: (high + step / 2).max(low + step), step }
    }

    fn x(&self, cents: i64) -> i64 {
        LEFT + (cents.clamp(self.low, self.high) - self.low) * (RIGHT - LEFT) / (self.high - self.low)
    }
}

pub fn write(market: &Market) -> String {
    let axis = Axis::new(market);
    let height = FIRST_ROW + ROW * (market.neighbours.len() as i64 + 1) + 34;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 {height}\" width=\"960\" height=\"{height}\" role=\"img\" \
         aria-label=\"Prices of {}\">{STYLE}<rect class=\"p\" width=\"960\" height=\"{height}\"/>",
        market.wish.describe()
    );
    text(&mut svg, (40, 50), "t h", "start", &format!("What {} costs", market.wish.describe()));
    text(&mut svg, (40, 74), "m s", "start", &subtitle(market));
    grid(&mut svg, &axis, height);
    histogram(&mut svg, market, &axis);
    rows(&mut svg, market, &axis);
    budget(&mut svg, market, &axis, height);
    svg.push_str("</svg>\n");
    svg
}

fn subtitle(market: &Market) -> String {
    match market.wanted {
        None => format!("None of {} stones on offer matches; the neighbours below do.", market.rows),
        Some(s) => format!(
            "{} of {} stones match. Half of them cost {} to {}, the median is {}.",
            s.count,
            market.rows,
            dollars(s.lower),
            dollars(s.upper),
            dollars(s.median)
        ),
    }
}

fn text(svg: &mut String, at: (i64, i64), class: &str, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let (x, y) = at;
    svg.push_str(&format!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\" text-anchor=\"{anchor}\">{words}</text>"));
}

fn line(svg: &mut String, from: (i64, i64), to: (i64, i64), class: &str, width: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    svg.push_str(&format!(
        "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" class=\"{class}\" stroke-width=\"{width}\"/>"
    ));
}

fn grid(svg: &mut String, axis: &Axis, height: i64) {
    let mut price = axis.low;
    while price <= axis.high {
        let x = axis.x(price);
        line(svg, (x, TOP), (x, height - 40), "g", "1");
        text(svg, (x, FLOOR + 20), "m", "middle", &dollars(price));
        price += axis.step;
    }
}

fn histogram(svg: &mut String, market: &Market, axis: &Axis) {
    let Market { prices, wanted, .. } = market;
    let width = (axis.step / 5).max(1);
    let bins = ((axis.high - axis.low) / width + 1) as usize;
    let mut counts = vec![0u64; bins];
    for (price, count) in prices {
        counts[(((price - axis.low) / width).max(0) as usize).min(bins - 1)] += count;
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as i64;
    for (k, &count) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
        let (from, to) = (axis.low + k as i64 * width, axis.low + (k as i64 + 1) * width);
        let (x, tall) = (axis.x(from), (count as i64 * (FLOOR - TOP - 24) / most).max(2));
        let middle = (from + to) / 2;
        let inside = wanted.map_or(false, |s| (s.lower..=s.upper).contains(&middle));
        svg.push_str(&format!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{tall}\" rx=\"1\" class=\"{}\"><title>{} to {}: {count}</title></rect>",
            x + 1,
            FLOOR - tall,
            (axis.x(to) - x - 2).max(2),
            if inside { "in" } else { "bar" },
            dollars(from),
            dollars(to)
        ));
    }
    line(svg, (LEFT, FLOOR), (RIGHT, FLOOR), "wh", "1");
    text(svg, (LEFT - 20, FLOOR - 78), "t s", "end", "Stones as wished");
    text(svg, (LEFT - 20, FLOOR - 60), "m", "end", &format!("{} stones", wanted.map_or(0, |s| s.count)));
    text(svg, (LEFT - 20, FLOOR - 42), "m", "end", "gold: the middle half");
    if let Some(s) = wanted {
        let x = axis.x(s.median);
        line(svg, (x, TOP - 2), (x, FLOOR), "med", "1.5");
        text(svg, (x, TOP - 10), "t", "middle", &format!("median {}", dollars(s.median)));
    }
}

fn rows(svg: &mut String, market: &Market, axis: &Axis) {
    text(svg, (40, FIRST_ROW - 32), "t s", "start", "One step away");
    text(svg, (RIGHT + 92, FIRST_ROW - 32), "m", "end", "at the median");
    let wished = Neighbour {
        property: "as wished",
        better: false,
        has: String::new(),
        spread: market.wanted,
        saves: None,
        cheapest: None,
    };
    for (k, n) in [&wished].into_iter().chain(&market.neighbours).enumerate() {
        let y = FIRST_ROW + ROW * k as i64;
        let first = k == 0;
        text(svg, (40, y + 4), if first { "t" } else { "m" }, "start", n.property);
        text(svg, (LEFT - 20, y + 4), "t", "end", &n.has);
        let s = match n.spread {
            Some(s) => s,
            None => {
                text(svg, (LEFT + 8, y + 4), "m", "start", "none on offer");
                continue;
            }
        };
        line(svg, (axis.x(s.min), y), (axis.x(s.max), y), "wh", "1");
        let (from, to) = (axis.x(s.lower), axis.x(s.upper));
        svg.push_str(&format!(
            "<rect x=\"{from}\" y=\"{}\" width=\"{}\" height=\"14\" rx=\"2\" class=\"{}\"><title>{} stones, {} to {}</title></rect>",
            y - 7,
            (to - from).max(2),
            if first { "wb" } else { "box" },
            s.count,
            dollars(s.min),
            dollars(s.max)
        ));
        line(svg, (axis.x(s.median), y - 10), (axis.x(s.median), y + 10), "med", "2");
        let (class, words) = match n.saves {
            None => ("t", dollars(s.median)),
            Some(saves) if saves >= 0 => ("save", format!("saves {}", dollars(saves))),
            Some(saves) => ("cost", format!("{} more", dollars(-saves))),
        };
        text(svg, (RIGHT + 92, y + 4), class, "end", &words);
    }
}

fn budget(svg: &mut String, market: &Market, axis: &Axis, height: i64) {
    let x = axis.x(market.wish.budget);
    line(svg, (x, TOP), (x, height - 40), "bud", "1.5\" stroke-dasharray=\"5 4");
    text(svg, (x, height - 20), "bt", "middle", &format!("budget {}", dollars(market.wish.budget)));
}
