//! `report.html`: one self-contained page for the customer. Every text in it is escaped; picture and chart are
//! embedded as images, in which no script of another agent can run.

use super::account::seconds;
use std::fmt::Write;

/// All that the page tells. Times are milliseconds after the start of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The idea's title.
    pub title: String,
    /// A line below it, such as date and customer.
    pub subtitle: String,
    /// Labels and values of the idea.
    pub idea: Vec<(String, String)>,
    /// `model.png`.
    pub picture_png: Vec<u8>,
    /// Labels and values of the model: triangles, size, mass, the result of the check.
    pub model: Vec<(String, String)>,
    /// `market.svg`.
    pub chart_svg: String,
    /// Sentences from `suggestions.json`.
    pub suggestions: Vec<String>,
    /// Where the prices come from.
    pub source: String,
    /// Who took part.
    pub people: Vec<Person>,
    /// Who did what, where, and how long it took.
    pub steps: Vec<Step>,
    /// Every agreement made, failed ones too.
    pub agreements: Vec<Agreement>,
    /// Every put into the workspace and when the others saw it.
    pub sync: Vec<Sync>,
    /// What was lost and who stepped in.
    pub incidents: Vec<String>,
    /// What the workspace looks like to collaborators and to a bystander.
    pub integrity: Integrity,
    /// The whole run.
    pub took_ms: u64,
}

/// One process of the story.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Person {
    /// Name in the story.
    pub name: String,
    /// Role and capabilities.
    pub role: String,
    /// did:key.
    pub agent: String,
    /// Operating-system process id.
    pub pid: u32,
}

/// Something that took time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Name in the story.
    pub who: String,
    /// What was done.
    pub what: String,
    /// Where: the machine or process that did it.
    pub place: String,
    /// When it began.
    pub started_ms: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// A signed agreement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreement {
    /// What was agreed.
    pub task: String,
    /// With whom.
    pub with: String,
    /// The bid: start and run estimate.
    pub terms: String,
    /// `fulfilled`, `failed` and so on.
    pub state: String,
    /// Whether it counts as a failure (shown as such).
    pub failed: bool,
}

/// One put into the workspace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sync {
    /// What was put.
    pub entry: String,
    /// Who put it.
    pub by: String,
    /// Its size.
    pub bytes: u64,
    /// Who saw it, and how many milliseconds later.
    pub seen: Vec<(String, u64)>,
}

/// The state of the workspace at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Integrity {
    /// CID of the workspace.
    pub root: String,
    /// Collaborators with this root and equal decrypted trees, by name.
    pub equal: Vec<String>,
    /// Who tried without being granted anything.
    pub bystander: String,
    /// What he could fetch and what he could not read, in sentences.
    pub attempts: Vec<String>,
}

impl Report {
    /// The whole page.
    pub fn to_html(&self) -> String {
        let mut page = String::with_capacity(self.picture_png.len() * 4 / 3 + self.chart_svg.len() * 4 / 3 + 32 * 1024);
        page.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
        page.push_str("<meta name=\"color-scheme\" content=\"light dark\">\n");
        let policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
        add(&mut page, format_args!("<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n"));
        add(
            &mut page,
            format_args!("<title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n", escape(&self.title)),
        );
        self.head(&mut page);
        self.market(&mut page);
        self.work(&mut page);
        self.workspace(&mut page);
        page.push_str("</main>\n</body>\n</html>\n");
        page
    }

    fn head(&self, page: &mut String) {
        let (title, subtitle) = (escape(&self.title), escape(&self.subtitle));
        add(
            page,
            format_args!(
                "<header><p class=\"over\">Prototype</p><h1>{title}</h1><p class=\"sub\">{subtitle}</p></header>\n"
            ),
        );
        let picture = base64(&self.picture_png);
        add(
            page,
            format_args!(
                "<figure class=\"hero\"><img alt=\"Rendering of the model\" src=\"data:image/png;base64,{picture}\"></figure>\n"
            ),
        );
        page.push_str("<section class=\"two\"><div><h2>The idea</h2>");
        definitions(page, &self.idea);
        page.push_str("</div><div><h2>The model</h2>");
        definitions(page, &self.model);
        page.push_str("</div></section>\n");
    }

    fn market(&self, page: &mut String) {
        page.push_str("<section><h2>The market</h2>");
        let chart = base64(self.chart_svg.as_bytes());
        add(
            page,
            format_args!(
                "<figure><img class=\"chart\" alt=\"Price distribution and neighbours\" src=\"data:image/svg+xml;base64,{chart}\"></figure>"
            ),
        );
        page.push_str("<ol class=\"advice\">");
        for sentence in &self.suggestions {
            add(page, format_args!("<li>{}</li>", escape(sentence)));
        }
        add(page, format_args!("</ol><p class=\"note\">{}</p></section>\n", escape(&self.source)));
    }

    fn work(&self, page: &mut String) {
        add(
            page,
            format_args!(
                "<section><h2>Who did what</h2><p class=\"note\">The whole run took {}.</p>",
                seconds(self.took_ms)
            ),
        );
        for incident in &self.incidents {
            add(page, format_args!("<p class=\"incident\">{}</p>", escape(incident)));
        }
        page.push_str("<div class=\"scroll\"><table class=\"time\"><tbody>");
        for step in &self.steps {
            let whole = self.took_ms.max(1) as f64;
            let left = (step.started_ms as f64 / whole * 100.0).min(100.0);
            let width = (step.took_ms as f64 / whole * 100.0).clamp(0.4, 100.0 - left.min(99.6));
            add(
                page,
                format_args!(
                    "<tr><th>{}</th><td>{}<small>{}</small></td><td class=\"lane\"><i style=\"margin-left:{left:.2}%;width:{width:.2}%\"></i></td><td class=\"n\">{}</td></tr>",
                    escape(&step.who),
                    escape(&step.what),
                    escape(&step.place),
                    seconds(step.took_ms)
                ),
            );
        }
        page.push_str("</tbody></table></div>");
        let rows = self.agreements.iter().map(|a| {
            let state = if a.failed { "bad" } else { "good" };
            let cells = [&a.task, &a.with, &a.terms].map(|text| format!("<td>{}</td>", escape(text))).concat();
            format!("<tr>{cells}<td class=\"{state}\">{}</td></tr>", escape(&a.state))
        });
        table(page, "Agreements", &["Task", "With", "Terms", "State"], rows.collect());
        let rows = self.people.iter().map(|p| {
            let (name, role, agent) = (escape(&p.name), escape(&p.role), escape(&p.agent));
            format!(
                "<tr><th>{name}</th><td>{role}</td><td class=\"id\">{agent}</td><td class=\"n\">{}</td></tr>",
                p.pid
            )
        });
        table(page, "Agents", &["Name", "Role", "Identity", "Process"], rows.collect());
        page.push_str("</section>\n");
    }

    fn workspace(&self, page: &mut String) {
        let integrity = &self.integrity;
        page.push_str("<section><h2>The shared workspace</h2>");
        add(page, format_args!("<p>Root <span class=\"id\">{}</span></p>", escape(&integrity.root)));
        let equal = escape(&integrity.equal.join(", "));
        add(page, format_args!("<p class=\"good\">Same root and equal decrypted trees at: {equal}.</p>"));
        let rows = self.sync.iter().map(|put| {
            let seen: Vec<String> =
                put.seen.iter().map(|(who, ms)| format!("{} <b>{ms} ms</b>", escape(who))).collect();
            let (entry, by) = (escape(&put.entry), escape(&put.by));
            format!(
                "<tr><th>{entry}</th><td>{by}</td><td class=\"n\">{}</td><td>{}</td></tr>",
                size(put.bytes),
                seen.join(" · ")
            )
        });
        table(page, "Synchronisation", &["Entry", "Put by", "Size", "Seen by the others after"], rows.collect());
        add(page, format_args!("<h3>What {} could learn</h3><ul>", escape(&integrity.bystander)));
        for attempt in &integrity.attempts {
            add(page, format_args!("<li>{}</li>", escape(attempt)));
        }
        page.push_str("</ul></section>\n");
    }
}

fn add(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("writing to a String never fails");
}

fn definitions(page: &mut String, pairs: &[(String, String)]) {
    page.push_str("<dl>");
    for (label, value) in pairs {
        add(page, format_args!("<dt>{}</dt><dd>{}</dd>", escape(label), escape(value)));
    }
    page.push_str("</dl>");
}

fn table(page: &mut String, title: &str, heads: &[&str], rows: Vec<String>) {
    let heads: String = heads
        .iter()
        .map(|head| if *head == "Size" { "<th class=\"n\">Size</th>".to_owned() } else { format!("<th>{head}</th>") })
        .collect();
    add(
        page,
        format_args!(
            "<h3>{title}</h3><div class=\"scroll\"><table><thead><tr>{heads}</tr></thead><tbody>{}</tbody></table></div>",
            rows.concat()
        ),
    );
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{}.{} kB", bytes / 1000, bytes % 1000 / 100),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

/// Text that is safe in elements and in quoted attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for k in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * k) & 63) as usize];
            text.push(if k <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

const STYLE: &str = "
:root{--paper:#fbfaf7;--card:#fff;--ink:#1d1b18;--soft:#6f6a62;--line:#e6e2da;--gold:#a07f33;--good:#2f6f5e;--bad:#a4472f}
@media (prefers-color-scheme:dark){:root{--paper:#121110;--card:#191816;--ink:#f1ede5;--soft:#a49d91;--line:#34312c;--gold:#c9a452;--good:#6cc0a6;--bad:#e08a70}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 ui-sans-serif,system-ui,-apple-system,'Segoe UI','Helvetica Neue',Arial,sans-serif}
main{max-width:1000px;margin:0 auto;padding:64px 24px 96px}
header{text-align:center;margin-bottom:40px}
h1,h2{font-family:Georgia,'Times New Roman',serif;font-weight:400;line-height:1.15;margin:0}
h1{font-size:46px}h2{font-size:27px;margin:0 0 20px}
h3{font-size:13px;font-weight:600;letter-spacing:.08em;text-transform:uppercase;color:var(--soft);margin:36px 0 8px}
.over{font-size:12px;letter-spacing:.22em;text-transform:uppercase;color:var(--gold);margin:0 0 12px}
.sub{color:var(--soft);margin:12px 0 0}
section{margin-top:64px;padding-top:40px;border-top:1px solid var(--line)}
.two{display:grid;grid-template-columns:1fr 1fr;gap:56px;border-top:0;padding-top:0;margin-top:48px}
figure{margin:0}img{display:block;width:100%;height:auto}
.hero img,.chart{border-radius:10px;border:1px solid var(--line)}
dl{display:grid;grid-template-columns:auto 1fr;gap:0 24px;margin:0}
dt,dd{padding:8px 0;margin:0;border-bottom:1px solid var(--line)}dt{color:var(--soft)}dd{text-align:right}
.advice{padding-left:22px;margin:32px 0 0;max-width:820px}.advice li{padding:4px 0 4px 6px}.advice li::marker{color:var(--gold)}
.note{color:var(--soft);font-size:14px}
.scroll{overflow-x:auto}
table{width:100%;border-collapse:collapse;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:9px 16px 9px 0;border-bottom:1px solid var(--line);font-weight:400}
thead th{color:var(--soft)}tbody th{white-space:nowrap;font-weight:600}
small{display:block;color:var(--soft);font-size:12.5px}b{font-weight:600;white-space:nowrap}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}td.n:last-child,th.n:last-child{padding-right:0}
.lane{width:38%;vertical-align:middle}.lane i{display:block;height:8px;border-radius:4px;background:var(--gold)}
.id{font:12.5px/1.5 ui-monospace,'SF Mono',Menlo,Consolas,monospace;overflow-wrap:anywhere;color:var(--soft)}
.good{color:var(--good)}.bad{color:var(--bad)}
.incident{border-left:3px solid var(--bad);padding:6px 0 6px 16px;margin:8px 0}
@media (max-width:720px){.two{grid-template-columns:1fr;gap:40px}h1{font-size:34px}main{padding-top:40px}}
@media print{:root{--paper:#fff;--card:#fff;--ink:#1d1b18;--soft:#6f6a62;--line:#e6e2da;--gold:#a07f33;--good:#2f6f5e;--bad:#a4472f}
main{padding:0;max-width:none}section{margin-top:32px;padding-top:24px}h1,h2,h3{break-after:avoid}tr,figure,li{break-inside:avoid}.lane i{print-color-adjust:exact}}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_as_the_standard_says() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn no_text_of_others_becomes_markup() {
        let evil = "<script>alert('x')</script>\"&".to_string();
        let pair = vec![(evil.clone(), evil.clone())];
        let report = Report {
            title: evil.clone(),
            subtitle: evil.clone(),
            idea: pair.clone(),
            model: pair,
            chart_svg: evil.clone(),
            suggestions: vec![evil.clone()],
            source: evil.clone(),
            people: vec![Person { name: evil.clone(), role: evil.clone(), agent: evil.clone(), pid: 1 }],
            steps: vec![Step { who: evil.clone(), what: evil.clone(), place: evil.clone(), ..Step::default() }],
            agreements: vec![Agreement {
                task: evil.clone(),
                with: evil.clone(),
                terms: evil.clone(),
                state: evil.clone(),
                failed: true,
            }],
            sync: vec![Sync { entry: evil.clone(), by: evil.clone(), bytes: 5, seen: vec![(evil.clone(), 3)] }],
            incidents: vec![evil.clone()],
            integrity: Integrity {
                root: evil.clone(),
                equal: vec![evil.clone()],
                bystander: evil.clone(),
                attempts: vec![evil],
            },
            ..Report::default()
        };
        let page = report.to_html();
        assert!(!page.contains("<script") && !page.contains("alert('x')"));
        assert_eq!(page.matches("&lt;script&gt;").count(), 27);
    }

    #[test]
    fn the_page_asks_nothing_of_the_network() {
        let page = Report::default().to_html();
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("));
    }

    #[test]
    fn bars_of_the_timeline_stay_within_the_run() {
        let step = |started_ms, took_ms| Step { started_ms, took_ms, ..Step::default() };
        let report = Report { steps: vec![step(90, 500), step(0, 0), step(500, 1)], took_ms: 100, ..Report::default() };
        let page = report.to_html();
        assert!(page.contains("margin-left:90.00%;width:10.00%"), "{page}");
        assert!(page.contains("margin-left:0.00%;width:0.40%"));
        assert!(page.contains("margin-left:100.00%;width:0.40%"));
    }
}
