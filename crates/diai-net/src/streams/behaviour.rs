use std::{
    collections::VecDeque,
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use diai_core::{BoxFuture, Disk, Multiaddr, OpenMode, PeerId, offload, write_atomically};
use libp2p::{
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};

use super::{
    handler::{Command, Handler},
    peer::Route,
    shared::Shared,
    sources::Sources,
    state::Action,
};
use crate::{Crowded, CutOff, Event, address_book::MAX_FILE_BYTES, cause::dial_reason};

const FOLDER: &str = "net";
const BOOK: &str = "net/peers";
/// How often what has passed is forgotten and what is new is written.
const TICK: Duration = Duration::from_secs(5);
/// Remembered peers that are reported after the start.
const REMEMBERED: usize = 16;

/// The swarm's part of streams: dials and closes what the shared state asks for, and tells it who came and went.
pub struct Behaviour {
    shared: Arc<Shared>,
    sources: Sources,
    events: VecDeque<ToSwarm<Event, Command>>,
    tick: BoxFuture<'static, ()>,
    loading: Option<BoxFuture<'static, io::Result<String>>>,
    saving: Option<BoxFuture<'static, io::Result<()>>>,
    /// The last write failed, which is reported once; it is tried again.
    unsaved: bool,
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Behaviour")
    }
}

impl Behaviour {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (disk, pool) = (Arc::clone(&shared.parts.disk), Arc::clone(&shared.parts.offload));
        let loading = async move {
            let read = offload(&*pool, move || read_book(&*disk)).await;
            read.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        Self {
            sources: Sources::new(shared.limits.connections_per_host),
            events: VecDeque::new(),
            tick: next_tick(&shared),
            loading: Some(Box::pin(loading)),
            saving: None,
            unsaved: false,
            shared,
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Writes the address book if it changed; to be called last.
    pub(crate) fn save(&mut self) -> BoxFuture<'static, io::Result<()>> {
        let (loading, saving, shared) = (self.loading.take(), self.saving.take(), Arc::clone(&self.shared));
        Box::pin(async move {
            if let Some(loading) = loading {
                // What earlier runs wrote stays in the file.
                let text = loading.await?;
                shared.state().book.load(&text);
            }
            if let Some(saving) = saving {
                saving.await?;
            }
            match write(&shared) {
                Some(write) => write.await,
                None => Ok(()),
            }
        })
    }

    pub(crate) fn set_rtt(&self, peer: PeerId, rtt: Duration) {
        self.shared.state().set_rtt(&peer, rtt);
    }

    pub(crate) fn close(&self, peer: PeerId, connection: ConnectionId) {
        self.shared.state().act(Action::CloseOne(peer, connection));
        self.shared.wake();
    }

    pub(crate) fn met(&self) -> Vec<PeerId> {
        self.shared.state().book.met(self.shared.limits.remembered_peers)
    }

    fn new_handler(&self, peer: PeerId, id: ConnectionId, dialled: bool, addr: &Multiaddr) -> Result<Handler, CutOff> {
        if self.shared.is_cut_off(&peer) {
            return Err(CutOff { peer });
        }
        let relayed = addr.iter().any(|part| part == Protocol::P2pCircuit);
        Ok(Handler::new(Arc::clone(&self.shared), peer, id, Route { dialled, relayed }))
    }

    fn on_tick(&mut self) {
        self.tick = next_tick(&self.shared);
        let clock = &self.shared.parts.clock;
        let own = self.shared.identity.certificate();
        let (untold, expired) = {
            let mut state = self.shared.state();
            state.penalties.expire(clock.now());
            state.sweep();
            (state.untold(own.seq()), state.expired(clock.wall()))
        };
        for peer_id in expired {
            self.events.push_back(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All });
        }
        // Again and again until it is done: a hello may fail.
        for peer_id in untold {
            let event = Command::Greet;
            self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event });
        }
        if self.saving.is_none() && self.loading.is_none() {
            self.saving = write(&self.shared);
        }
    }

    fn poll_disk(&mut self, cx: &mut Context<'_>) {
        if let Some(loading) = &mut self.loading
            && let Poll::Ready(loaded) = loading.as_mut().poll(cx)
        {
            self.loading = None;
            match loaded {
                Ok(text) => {
                    let mut state = self.shared.state();
                    state.book.load(&text);
                    let peers = state.book.met(REMEMBERED);
                    self.events.push_back(ToSwarm::GenerateEvent(Event::Remembered { peers }));
                }
                Err(error) => self.on_disk_failed(&error),
            }
        }
        if let Some(saving) = &mut self.saving
            && let Poll::Ready(saved) = saving.as_mut().poll(cx)
        {
            self.saving = None;
            let failed_before = std::mem::replace(&mut self.unsaved, saved.is_err());
            if let Err(error) = saved {
                self.shared.state().book.still_changed();
                if !failed_before {
                    self.on_disk_failed(&error);
                }
            }
        }
    }

    fn on_disk_failed(&mut self, error: &io::Error) {
        let reason = format!("the addresses of peers cannot be kept: {error}");
        self.events.push_back(ToSwarm::GenerateEvent(Event::StorageFailed { reason }));
    }

    fn next_action(&self) -> Option<ToSwarm<Event, Command>> {
        Some(match self.shared.state().actions.pop_front()? {
            Action::Dial(opts) => ToSwarm::Dial { opts },
            Action::Close(peer_id) => ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All },
            Action::CloseOne(peer_id, id) => ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) },
        })
    }
}

fn next_tick(shared: &Shared) -> BoxFuture<'static, ()> {
    let clock = &shared.parts.clock;
    clock.sleep_until(clock.now() + TICK)
}

fn write(shared: &Shared) -> Option<BoxFuture<'static, io::Result<()>>> {
    let text = shared.state().book.take_changed()?;
    let (disk, pool) = (Arc::clone(&shared.parts.disk), Arc::clone(&shared.parts.offload));
    Some(Box::pin(async move {
        let written = offload(&*pool, move || write_book(&*disk, &text)).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error)))
    }))
}

fn read_book(disk: &dyn Disk) -> io::Result<String> {
    let file = match disk.open(BOOK, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let bytes = file.len()?;
    if bytes > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("{BOOK} has {bytes} bytes, more than this device writes")));
    }
    let mut text = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_exact_at(0, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn write_book(disk: &dyn Disk, text: &str) -> io::Result<()> {
    disk.create_folder(FOLDER)?;
    write_atomically(disk, BOOK, text.as_bytes())
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let limit = self.shared.limits.connections_per_host;
        if self.sources.admit(id, remote) { Ok(()) } else { Err(ConnectionDenied::new(Crowded { limit })) }
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.new_handler(peer, id, false, remote).map_err(ConnectionDenied::new)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _id: ConnectionId,
        peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let Some(peer) = peer else { return Ok(Vec::new()) };
        if self.shared.is_cut_off(&peer) {
            return Err(ConnectionDenied::new(CutOff { peer }));
        }
        Ok(self.shared.state().book.addrs(&peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        _role: Endpoint,
        _port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.new_handler(peer, id, true, addr).map_err(ConnectionDenied::new)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.shared.state().established(established.connection_id, established.peer_id);
            }
            FromSwarm::ListenFailure(failure) => self.sources.gone(failure.connection_id),
            FromSwarm::ConnectionClosed(closed) => {
                self.sources.gone(closed.connection_id);
                self.shared.state().disconnected(closed.peer_id, closed.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                let mut state = self.shared.state();
                match failure.error {
                    // The hello, or its end, tells those who wait.
                    DialError::DialPeerConditionFalse(_) => state.dial_spared(failure.connection_id),
                    error => state.dial_failed(failure.connection_id, &dial_reason(error)),
                }
            }
            FromSwarm::NewListenAddr(new) => self.shared.add_listen_addr(new.addr),
            FromSwarm::ExternalAddrConfirmed(confirmed) => self.shared.add_listen_addr(confirmed.addr),
            FromSwarm::ExpiredListenAddr(expired) => self.shared.remove_listen_addr(expired.addr),
            FromSwarm::ExternalAddrExpired(expired) => self.shared.remove_listen_addr(expired.addr),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.shared.register(cx.waker());
        while self.tick.as_mut().poll(cx).is_ready() {
            self.on_tick();
        }
        self.poll_disk(cx);
        match self.events.pop_front().or_else(|| self.next_action()) {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }
}

impl Drop for Behaviour {
    fn drop(&mut self) {
        self.shared.close();
    }
}
