//! The whole story: agents without a server find each other, agree, compute, store and synchronise a sealed prototype.
//!
//! ```sh
//! cargo run --release --example collaborative_prototyping
//! cargo run --release --example collaborative_prototyping -- --kill modeller
//! ```
//! The program starts one process for each agent, itself with a role; they know one contact address and nothing else.
//! The first process only starts the others, listens to what they tell, and writes the report: no work passes through it.

mod agreement;
mod brief;
mod cast;
mod link;
mod roles;
mod story;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, ValueEnum};
use diai::Multiaddr;
use diai_examples::collaborative_prototyping::{
    account::{Account, Mode},
    idea::Idea,
    market::{self, Market},
};

/// Agents without a server turn an idea into a prototype.
#[derive(Debug, Parser)]
#[command(name = "collaborative_prototyping")]
struct Args {
    /// The idea (default: a solitaire ring)
    #[arg(long, value_name = "FILE")]
    idea: Option<PathBuf>,
    /// A market's prices, one source for each (repeatable; default: 53,940 diamonds, split over three sources)
    #[arg(long, value_name = "CSV")]
    market: Vec<PathBuf>,
    /// Where the result goes
    #[arg(long, value_name = "DIR", default_value = "prototype")]
    out: PathBuf,
    /// More bystanders, who serve the network but are granted nothing
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=24))]
    agents: u8,
    /// End one process with kill -9 on the way: the awarded modeller at its first progress, a source before its part is
    /// mapped, or the contact that everyone joined through
    #[arg(long, value_enum)]
    kill: Option<Victim>,
    /// Leave the agents' data folders in this one, which must be empty; each can go on as an `agent --data-dir DIR/NAME`
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Tell the story as JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Be one agent of the story; used by the program itself
    #[arg(long, hide = true)]
    role: Option<roles::Role>,
    #[arg(long, hide = true, requires = "role")]
    data_dir: Option<PathBuf>,
    #[arg(long, hide = true)]
    contact: Vec<Multiaddr>,
    #[arg(long, hide = true)]
    sources: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Victim {
    Modeller,
    Source,
    Contact,
}

/// What the user asked for cannot be done as it stands: exit code 2.
#[derive(Debug)]
struct Usage(String);

fn main() -> ExitCode {
    let args = Args::parse();
    diai_examples::log_to_stderr();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string(), 1),
    };
    if let Some(role) = args.role {
        return match runtime.block_on(roles::play(role, &args)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string(), 1),
        };
    }
    let script = match script(&args) {
        Ok(script) => script,
        Err(Usage(problem)) => return fail(&problem, 2),
    };
    let mode = match (args.json, io::stdout().is_terminal()) {
        (true, _) => Mode::Json,
        (false, true) => Mode::Terminal,
        (false, false) => Mode::Plain,
    };
    let account = Account::new(mode, Box::new(io::stdout()));
    match runtime.block_on(story::tell(script, account)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

fn fail(problem: &str, code: u8) -> ExitCode {
    eprintln!("error: {problem}");
    ExitCode::from(code)
}

/// Everything that is known before the story begins.
struct Script {
    idea: Idea,
    parts: Vec<String>,
    market: String,
    out: PathBuf,
    keep: Option<PathBuf>,
    bystanders: usize,
    kill: Option<Victim>,
}

fn script(args: &Args) -> Result<Script, Usage> {
    if let Some(keep) = &args.keep
        && std::fs::read_dir(keep).is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(Usage(format!(
            "--keep {}: agents of another story may be in it; name a new folder",
            keep.display()
        )));
    }
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|error| Usage(format!("cannot read {}: {error}", path.display())))
    };
    let (name, text) = match &args.idea {
        Some(path) => (path.display().to_string(), read(path)?),
        None => ("idea.toml".to_owned(), include_str!("idea.toml").to_owned()),
    };
    let idea = Idea::parse(&name, &text).map_err(|error| Usage(error.to_string()))?;
    let check = |name: &str, text: &str, shares: &[usize]| {
        let market = Market::parse(name, text).map_err(|error| Usage(error.to_string()))?;
        Ok((market.split(shares), market.rows()))
    };
    let (mut parts, mut rows) = (Vec::new(), 0);
    if args.market.is_empty() {
        (parts, rows) = check("diamonds.csv", market::DEFAULT, &market::SHARES)?;
    }
    for path in &args.market {
        let (part, part_rows) = check(&path.display().to_string(), &read(path)?, &[1])?;
        parts.extend(part);
        rows += part_rows;
    }
    let origin = if args.market.is_empty() {
        "public data of 2008, published with ggplot2 and plotnine".to_owned()
    } else {
        args.market.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    };
    if args.kill == Some(Victim::Source) && parts.len() < 2 {
        let problem = "--kill source needs two sources or more, so that another holds its part; name a second --market";
        return Err(Usage(problem.into()));
    }
    Ok(Script {
        idea,
        market: format!("{rows} prices at {} sources ({origin})", parts.len()),
        parts,
        out: args.out.clone(),
        keep: args.keep.clone(),
        bystanders: 1 + usize::from(args.agents),
        kill: args.kill,
    })
}
