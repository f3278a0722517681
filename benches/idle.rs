//! Memory of a process that is an agent and does nothing, connected to one other, against one that is a bare swarm.

use std::{
    env,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use diai::{Agent, Multiaddr, PeerId};
use tokio::io::{AsyncReadExt, stdin};

use crate::{
    Bench, Failure, Result, agents,
    bare::{Client, Security, Server},
    card::Row,
    contest,
};

/// Says to a process that it is an idle one, and which.
pub(crate) const ROLE: &str = "DIAI_BENCH_IDLE";
const FOLDER: &str = "DIAI_BENCH_FOLDER";
const CONTACT: &str = "DIAI_BENCH_CONTACT";
const READY: &str = "ready";
const MIB: f64 = 1024.0;
const PROCESSES: usize = 3;
/// Until it is measured: what an agent does first is over then.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().to_owned();
    let (host, server) = bench.on_workers(async move {
        let host = agents::agent(&path, "host").start().await?;
        Ok::<_, Failure>((host, Server::start(Security::Tls).await?))
    })?;
    let (processes, settle) = if bench.test { (1, Duration::ZERO) } else { (PROCESSES, SETTLE) };
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for number in 0..processes {
        let folder = folder.path().join(format!("idle-{number}"));
        ours.push(resident(bench, &host, "agent", &folder, &agents::addr(&host)?.to_string(), settle)?);
        let contact = format!("{}/p2p/{}", server.addr, server.peer);
        bare.push(resident(bench, &host, "bare", &folder, &contact, settle)?);
    }
    bench.runtime.block_on(host.shutdown());
    let (Some(ours), Some(bare)) = (median(ours), median(bare)) else { return Ok(()) };
    let within = ours <= 24.0;
    bench.card.add(Row {
        what: "resident memory of an idle agent, connected",
        ours: format!("{ours:.1} MiB"),
        bare: format!("a bare libp2p swarm in the same program {bare:.1} MiB"),
        ratio: format!("{:.1} MiB more", ours - bare),
        bar: "at most 24 MiB",
        met: Some(within),
    });
    Ok(())
}

/// The middle one; none where the system does not tell.
fn median(found: Vec<Option<f64>>) -> Option<f64> {
    let mut found: Vec<f64> = found.into_iter().flatten().collect();
    found.sort_by(f64::total_cmp);
    found.get(found.len() / 2).copied()
}

/// Starts a process, and measures its resident memory in MiB when it has settled.
fn resident(
    bench: &Bench,
    host: &Agent,
    role: &str,
    folder: &Path,
    contact: &str,
    settle: Duration,
) -> Result<Option<f64>> {
    let child = Command::new(env::current_exe()?)
        .env(ROLE, role)
        .env(FOLDER, folder)
        .env(CONTACT, contact)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut child = Ended(child);
    ready(&mut child.0)?;
    let clock = host.world().clock.clone();
    bench.runtime.block_on(async { clock.sleep_until(clock.now() + settle).await });
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).map(|kib| kib / MIB))
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the process says so.
fn ready(child: &mut Child) -> Result<()> {
    use std::io::{BufRead, BufReader};

    let output = child.stdout.take().ok_or("its output is piped")?;
    let (tell, told) = mpsc::sync_channel(1);
    // Ends with the process.
    std::thread::spawn(move || {
        let ready = BufReader::new(output).lines().map_while(Result::ok).any(|line| line == READY);
        // Nobody may wait any more.
        let _ = tell.send(ready);
    });
    let start = contest::now();
    match told.recv_timeout(agents::PATIENCE) {
        Ok(true) => Ok(()),
        _ => Err(Failure::from(format!("the idle process was not ready after {:?}", start.elapsed()))),
    }
}

/// Is the idle process, until its input ends.
#[expect(clippy::print_stdout, reason = "this is how it says that it is ready")]
pub(crate) async fn child(role: &str) -> Result<()> {
    let contact: Multiaddr = env::var(CONTACT)?.parse()?;
    let _kept: Box<dyn std::any::Any> = if role == "agent" {
        let folder = env::var_os(FOLDER).ok_or("no folder")?;
        let agent =
            agents::agent(Path::new(&folder), "agent").capability("bench/idle").contact(contact).start().await?;
        agents::until(&agent, "connected", || agent.status().connected_peers > 0).await?;
        Box::new(agent)
    } else {
        let peer: PeerId = env::var(CONTACT)?.rsplit('/').next().ok_or("no peer")?.parse()?;
        Box::new(Client::connect(Security::Tls, peer, contact).await?)
    };
    println!("{READY}");
    let mut byte = [0];
    while stdin().read(&mut byte).await? > 0 {}
    Ok(())
}
