//! `suggestions.json`.

use crate::analysis::{Market, Neighbour, Spread};
use crate::stone::{weight, Stone, CLARITIES, COLORS, CUTS};

pub fn write(market: &Market) -> String {
    let wish = market.wish;
    let mut lines = vec![format!(
        "\"wanted\":{{\"carat\":{},\"tolerance\":{},\"cut\":{},\"color\":{},\"clarity\":{}}}",
        weight(wish.carat),
        weight(wish.tolerance),
        text(CUTS[wish.cut]),
        text(COLORS[wish.color]),
        text(CLARITIES[wish.clarity])
    )];
    lines.push("\"currency\":\"USD\"".into());
    lines.push(format!("\"rows\":{},\"bad_rows\":{}", market.rows, market.bad));
    lines.push(format!("\"price\":{}", spread(market.wanted)));
    lines.push(format!("\"cheapest\":{}", stone(market.cheapest)));
    lines.push(format!(
        "\"budget\":{{\"amount\":{},\"stones_within\":{},\"at_least_as_good_within\":{}}}",
        amount(wish.budget),
        market.within,
        market.affordable
    ));
    lines.push(list("neighbours", market.neighbours.iter().map(neighbour)));
    lines.push(list("cheapest_neighbours", market.cheapest_neighbours().into_iter().map(neighbour)));
    lines.push(list("finest_within_budget", market.best.iter().map(|s| stone(Some(*s)))));
    lines.push(list("suggestions", market.advice().iter().map(|s| text(s))));
    format!("{{\n  {}\n}}\n", lines.join(",\n  "))
}

fn list(name: &str, items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    format!("\"{name}\":[\n    {}\n  ]", items.join(",\n    "))
}

fn neighbour(n: &Neighbour) -> String {
    format!(
        "{{\"property\":{},\"better\":{},\"has\":{},\"saves\":{},\"price\":{},\"cheapest\":{}}}",
        text(n.property),
        n.better,
        text(&n.has),
        n.saves.map_or("null".into(), amount),
        spread(n.spread),
        stone(n.cheapest)
    )
}

fn spread(spread: Option<Spread>) -> String {
    match spread {
        None => "{\"count\":0}".into(),
        Some(s) => format!(
            "{{\"count\":{},\"min\":{},\"lower_quartile\":{},\"median\":{},\"upper_quartile\":{},\"max\":{}}}",
            s.count,
            amount(s.min),
            amount(s.lower),
            amount(s.median),
            amount(s.upper),
            amount(s.max)
        ),
    }
}

fn stone(stone: Option<Stone>) -> String {
    match stone {
        None => "null".into(),
        Some(s) => format!(
            "{{\"carat\":{},\"cut\":{},\"color\":{},\"clarity\":{},\"price\":{}}}",
            weight(s.carat),
            text(CUTS[s.cut]),
            text(COLORS[s.color]),
            text(CLARITIES[s.clarity]),
            amount(s.price)
        ),
    }
}

/// Dollars as a JSON number.
fn amount(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    match cents.abs() % 100 {
        0 => format!("{sign}{}", cents.abs() / 100),
        rest => format!("{sign}{}.{rest:02}", cents.abs() / 100),
    }
}

fn text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if u32::from(c) < 32 => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
