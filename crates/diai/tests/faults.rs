//! Agents die, come late, and are kept apart; the others go on.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{
    HELLO, add, common_root, connect, echo, echoing, enter, find, identity, ids, kill, neighbours, share, start, tree,
    within,
};
use diai::{
    Agent, StreamExt, TaskSpec,
    core::{Clock, OpenError, PeerEvent, memory::Sim},
    discovery::DiscoveryEvent,
    messaging::message::SESSION,
    tasks::{NativeOutput, NativeTask, RunEvent, TaskContext, native_fn},
};
use futures::FutureExt;

/// A task that reports progress after 100 ms and ends after a second.
fn slow(clock: Arc<dyn Clock>) -> Arc<dyn NativeTask> {
    native_fn(move |context: TaskContext, _| {
        let clock = clock.clone();
        async move {
            clock.sleep_until(clock.now() + Duration::from_millis(100)).await;
            context.progress(1, 10, "begun");
            clock.sleep_until(clock.now() + Duration::from_millis(900)).await;
            Ok(NativeOutput { stdout: "done".into(), files: Vec::new() })
        }
    })
}

#[test]
fn when_the_worker_is_killed_at_its_first_progress_another_finishes() {
    let sim = Sim::new(1);
    sim.run(async {
        let mut workers = Vec::new();
        for number in 1..=3 {
            let identity = identity(&sim, number);
            let world = enter(&sim, &identity);
            let builder = Agent::builder().serve_tasks(true).native_task("slow", slow(world.clock.clone()));
            workers.push(builder.start_in(world, identity).await.unwrap());
        }
        let alice = start(&sim, 4, Agent::builder()).await;
        find(&alice, diai::tasks::CAPABILITY, 3).await;
        let mut run = alice.tasks().run(TaskSpec::service("slow"));
        let mut events = run.events().unwrap();
        let (mut victim, mut lost) = (None, Vec::new());
        while let Some(event) = events.next().await {
            match event {
                RunEvent::Progress { agent, .. } if victim.is_none() => {
                    let at = workers.iter().position(|worker| worker.id() == agent).unwrap();
                    kill(&sim, workers.remove(at));
                    victim = Some(agent);
                }
                RunEvent::WorkerLost { agent, .. } => lost.push(agent),
                _ => {}
            }
        }
        let output = run.await.unwrap();
        let victim = victim.unwrap();
        assert_ne!(output.worker, victim);
        assert_eq!(lost, [victim]);
        assert_eq!(alice.tasks().content(output.stdout()).await.unwrap(), "done");
    });
}

#[test]
fn after_the_contact_is_killed_the_others_find_call_fetch_and_run() {
    let sim = Sim::new(2);
    sim.run(async {
        let contact = start(&sim, 1, Agent::builder()).await;
        let alice = start(&sim, 2, echoing().capability("story/teller")).await;
        let bob = start(&sim, 3, echoing().capability("story/reader").serve_tasks(true)).await;
        connect(&alice, &contact).await;
        connect(&bob, &contact).await;
        kill(&sim, contact);
        assert_eq!(find(&alice, "story", 1).await, ids([&bob]));
        assert_eq!(find(&bob, "story", 1).await, ids([&alice]));
        assert_eq!(echo(&alice, bob.id()).await.unwrap(), "still here");
        let book = add(&alice, vec![7; 300_000]).await;
        assert_eq!(bob.blocks().get_bytes(book, 1 << 20, within(&bob, 30)).await.unwrap(), vec![7; 300_000]);
        let program = add(&alice, HELLO).await;
        let output = alice.tasks().run(TaskSpec::wasm(program).arg("world")).await.unwrap();
        assert_eq!(output.worker, bob.id());
        assert_eq!(alice.tasks().content(output.stdout()).await.unwrap(), "hello, world\n");
    });
}

#[test]
fn an_agent_that_joins_late_finds_everyone_and_is_found() {
    let sim = Sim::new(3);
    sim.run(async {
        let mut early = Vec::new();
        for number in 1..=9 {
            early.push(start(&sim, number, Agent::builder().capability(format!("craft/number/n{number}"))).await);
        }
        // Long after records were first signed, and renewed.
        let clock = early[0].world().clock.clone();
        clock.sleep_until(within(&early[0], 3 * 60 * 60)).await;
        let late = start(&sim, 10, Agent::builder().capability("craft/late")).await;
        let mut events = late.events();
        connect(&late, &early[0]).await;
        assert_eq!(find(&late, "craft", 9).await, ids(&early));
        assert_eq!(find(&late, "craft/number", 9).await, ids(&early));
        assert_eq!(find(&late, "craft/number/n4", 1).await, ids([&early[3]]));
        for agent in &early {
            assert_eq!(find(agent, "craft/late", 1).await, ids([&late]));
        }
        let (mut found, mut met) = (0, 0);
        while let Some(Some(event)) = events.next().now_or_never() {
            match event {
                diai::Event::Discovery(DiscoveryEvent::Found(_)) => found += 1,
                diai::Event::Peer(PeerEvent::Connected(_)) => met += 1,
                _ => {}
            }
        }
        assert!(found >= 9 && met > 0, "{found} found, {met} met");
        assert_eq!(late.status().known_agents, 9);
        late.shutdown().await;
        assert!(events.next().await.is_none(), "the events end with the agent");
    });
}

#[test]
fn members_who_were_kept_apart_converge_when_the_cut_heals() {
    let sim = Sim::new(4);
    sim.run(async {
        let agents = neighbours(&sim, 4).await;
        let agents: Vec<_> = agents.iter().collect();
        let peers: Vec<_> = agents.iter().map(|agent| agent.status().peer).collect();
        let workspaces = share(&agents).await;
        workspaces[0].put("plan", "first").await.unwrap();
        common_root(&agents, &workspaces, 1).await;
        let across = [(0, 2), (0, 3), (1, 2), (1, 3)];
        across.iter().for_each(|&(one, other)| sim.cut(peers[one], peers[other]));
        for (workspace, path) in workspaces.iter().zip(["a", "b", "c", "d"]) {
            workspace.put(path, format!("by the one who put {path}")).await.unwrap();
        }
        // Each side comes to a root of its own.
        let left = common_root(&agents[..2], &workspaces[..2], 3).await;
        let right = common_root(&agents[2..], &workspaces[2..], 3).await;
        assert_ne!(left, right);
        assert!(echo(agents[0], agents[3].id()).await.is_err());
        across.iter().for_each(|&(one, other)| sim.heal(peers[one], peers[other]));
        common_root(&agents, &workspaces, 5).await;
        let expected = tree(&workspaces[0]).await;
        for workspace in &workspaces {
            assert_eq!(tree(workspace).await, expected);
        }
    });
}

#[test]
fn when_the_last_handle_is_dropped_nothing_of_the_agent_is_left() {
    let sim = Sim::new(5);
    sim.run(async {
        let alice = start(&sim, 1, echoing()).await;
        // One who serves tasks, too: its services own one another.
        let bob = start(&sim, 2, echoing().serve_tasks(true)).await;
        let workspaces = share(&[&alice, &bob]).await;
        workspaces[1].put("note", "kept").await.unwrap();
        common_root(&[&alice, &bob], &workspaces, 1).await;
        assert!(echo(&alice, bob.id()).await.is_ok());
        let (world, identity) = (bob.world().clone(), bob.identity().clone());
        drop((bob, workspaces));
        let to_bob = alice.world().network.clone();
        let opened = to_bob.open(identity.peer(), &[SESSION]).await;
        assert!(matches!(opened, Err(OpenError::Unsupported { .. })), "sessions are still accepted: {opened:?}");
        // So another can start in the same World, on the same disk.
        let bob = echoing().start_in(world, identity).await.unwrap();
        assert_eq!(echo(&alice, bob.id()).await.unwrap(), "still here");
        assert_eq!(bob.blocks().workspaces()[0].read("note").await.unwrap(), "kept");
    });
}
