use std::task::{Context, Poll};

use diai_core::{Multiaddr, PeerId};
use futures::StreamExt;
use libp2p::{
    core::{Endpoint, transport::PortUse},
    kad::{self, store::MemoryStore},
    swarm::{
        ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

use super::Driver;
use crate::Event;

impl NetworkBehaviour for Driver {
    // The same whatever the store; named by libp2p's, so that ours stays private.
    type ConnectionHandler = <kad::Behaviour<MemoryStore> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.kad.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.kad.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_outbound_connection(id, peer, addr, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.kad.on_swarm_event(event);
        if let FromSwarm::ConnectionClosed(closed) = event {
            self.gate.forget(closed.connection_id);
        }
        // Lookups would dial it again and again; it is back as soon as it shows itself.
        if let FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), error: DialError::Transport(_), .. }) = event {
            self.kad.remove_peer(&peer);
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.on_said(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.shared.dht.register(cx.waker());
        self.release();
        while self.tick.as_mut().poll(cx).is_ready() {
            self.on_tick();
        }
        while let Poll::Ready(outcome) = self.keeper.poll(cx) {
            self.on_kept(outcome);
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            match self.kad.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => {
                    self.on_kad_event(event);
                    continue;
                }
                Poll::Ready(other) => return Poll::Ready(other.map_out(|_| unreachable!("events are taken above"))),
                Poll::Pending => {}
            }
            if let Poll::Ready(Some(validated)) = self.validating.poll_next_unpin(cx) {
                self.on_validated(validated);
                continue;
            }
            let mut all_taken = false;
            if self.queries.len() < self.config.queries {
                match self.commands.poll_recv(cx) {
                    Poll::Ready(Some(command)) => {
                        self.on_command(command);
                        continue;
                    }
                    Poll::Ready(None) | Poll::Pending => all_taken = true,
                }
            }
            // After all commands, so that what was provided before it was withdrawn is withdrawn.
            let withdrew = all_taken && self.withdraw();
            if !self.take_routes() && !withdrew && !self.announce_next() {
                return Poll::Pending;
            }
        }
    }
}
