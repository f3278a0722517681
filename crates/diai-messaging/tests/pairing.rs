//! Of two sessions opened at once both sides keep the same one.

use diai_core::{PeerId, memory::AgentSpec};
use diai_messaging::{
    machine::pairing::{Standing, Verdict, decide},
    message::{Hello, Limits},
};

#[test]
fn both_sides_of_two_sessions_opened_at_once_keep_the_same_one() {
    let peers: Vec<PeerId> = (1..=2).map(|number| AgentSpec::example(number).peer).collect();
    let (low, high) = (peers[0].min(peers[1]), peers[0].max(peers[1]));
    let standing = Standing { opened_here: true, number: 1, remote_incarnation: None };
    let fresh = Hello { incarnation: 1, number: 1, seen_incarnation: 0, seen_number: 0, limits: Limits::FLOOR };
    assert_eq!(decide(low, high, 9, standing, &fresh), Verdict::Keep);
    assert_eq!(decide(high, low, 9, standing, &fresh), Verdict::Replace);
    // The other side knew ours and opened another: it has lost ours.
    let knew = Hello { seen_incarnation: 9, seen_number: 1, ..fresh };
    assert_eq!(decide(low, high, 9, standing, &knew), Verdict::Supersede);
    // It knew a former life of ours.
    let former = Hello { seen_incarnation: 8, seen_number: 1, ..fresh };
    assert_eq!(decide(low, high, 9, standing, &former), Verdict::Keep);
    // It was started anew.
    let restarted = Standing { remote_incarnation: Some(77), ..standing };
    assert_eq!(decide(low, high, 9, restarted, &fresh), Verdict::Supersede);
    // It opened the standing one itself.
    let theirs = Standing { opened_here: false, number: 1, remote_incarnation: Some(1) };
    assert_eq!(decide(low, high, 9, theirs, &Hello { number: 2, ..fresh }), Verdict::Supersede);
    assert_eq!(decide(low, high, 9, theirs, &fresh), Verdict::Keep);
}
