use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use diai_blocks::Blocks;
use diai_core::{AgentId, Calls, Multiaddr, PeerEvent, PeerId, Registration as Served, World, timeout_at};
use diai_discovery::{Discovery, Registration};
use diai_identity::Identity;
use diai_messaging::Messaging;
use diai_tasks::Tasks;
use futures::{StreamExt, stream};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};
use tracing::Instrument;

use crate::{
    AgentBuilder, StartError,
    event::{Event, Events},
    ports::{ByDiscovery, InBlocks},
};

/// An autonomous agent with a network of its own. Clones are handles to the same one; when the last is dropped, all its
/// tasks end. [`Agent::shutdown`] ends it gracefully.
#[derive(Clone)]
pub struct Agent(Arc<Inner>);

struct Inner {
    world: World,
    identity: Identity,
    discovery: Discovery,
    messaging: Messaging,
    blocks: Blocks,
    tasks: Tasks,
    /// Services of the agent's own; taken back at shutdown.
    served: Mutex<Vec<Served>>,
    /// What to register; taken when it is.
    registration: Mutex<Option<Registration>>,
    /// Whom to meet before the agent counts as started.
    contacts: Vec<Multiaddr>,
    background: Mutex<JoinSet<()>>,
    /// Whether the agent was shut down.
    closed: watch::Sender<bool>,
    #[cfg_attr(
        not(feature = "libp2p"),
        allow(dead_code, reason = "nothing lies below a World that was brought along")
    )]
    below: Mutex<Option<Below>>,
}

/// How long a start waits for the first contact, and then for the registration.
const JOIN_WITHIN: Duration = Duration::from_secs(5);
/// Guests that run at shutdown may come to their end for so long.
const TASK_GRACE: Duration = Duration::from_secs(10);

/// A shutdown waits so long for the others to hear of it.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(2);

/// What an agent is made of, besides its settings.
pub(crate) struct Parts {
    pub(crate) world: World,
    pub(crate) identity: Identity,
    pub(crate) below: Option<Below>,
    /// Whom to meet before the agent counts as started.
    pub(crate) contacts: Vec<Multiaddr>,
}

/// What lies below a World that the agent made itself: stopped last, and the lock of the data folder with it.
pub(crate) struct Below {
    #[cfg(feature = "libp2p")]
    pub(crate) net: diai_net::Net,
    #[cfg(feature = "libp2p")]
    pub(crate) key_file: diai_identity::key_file::KeyFile,
}

/// What an agent has, at a glance.
#[derive(Debug, Clone)]
pub struct Status {
    /// The agent.
    pub agent: AgentId,
    /// This device.
    pub peer: PeerId,
    /// Where others can dial it.
    pub addrs: Vec<Multiaddr>,
    /// Connected devices.
    pub connected_peers: usize,
    /// Agents whose records are known.
    pub known_agents: usize,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("agent", &self.id()).finish_non_exhaustive()
    }
}

impl Agent {
    /// The settings of a new agent.
    pub fn builder() -> AgentBuilder {
        AgentBuilder::default()
    }

    pub(crate) async fn start(settings: AgentBuilder, parts: Parts) -> Result<Self, StartError> {
        let span = tracing::info_span!("agent", id = parts.identity.agent().short());
        Self::compose(settings, parts).instrument(span).await
    }

    async fn compose(settings: AgentBuilder, parts: Parts) -> Result<Self, StartError> {
        let Parts { world, identity, below, contacts } = parts;
        let registration = Mutex::new(Some(settings.registration()?));
        let discovery = Discovery::start(&world, identity.clone(), settings.discovery).await?;
        let locate = Arc::new(ByDiscovery(discovery.clone()));
        let messaging = Messaging::start(&world, &identity, locate.clone(), settings.messaging)?;
        let calls: Arc<dyn Calls> = Arc::new(messaging.clone());
        let blocks = Blocks::start(&world, identity.clone(), calls.clone(), settings.blocks).await;
        let blocks = blocks.map_err(|error| StartError::Blocks(Box::new(error)))?;
        let artifacts = Arc::new(InBlocks { blocks: blocks.clone(), world: world.clone(), identity: identity.clone() });
        let tasks = Tasks::start(&world, identity.clone(), calls, artifacts, locate, settings.tasks)?;
        let mut served = Vec::new();
        for (name, task) in settings.native_tasks {
            served.push(tasks.register(&name, task)?);
        }
        for (name, handler) in settings.services {
            served.push(messaging.register(&name, handler)?);
        }
        let agent = Self(Arc::new(Inner {
            world,
            identity,
            discovery,
            messaging,
            blocks,
            tasks,
            served: Mutex::new(served),
            registration,
            contacts,
            background: Mutex::new(JoinSet::new()),
            closed: watch::Sender::new(false),
            below: Mutex::new(below),
        }));
        if !settings.register_later {
            agent.register().await;
        }
        Ok(agent)
    }

    /// Lets others find the agent: registers what its builder was told. [`AgentBuilder`]'s start has done so, unless it
    /// was told to [`register_later`](AgentBuilder::register_later); a second call does nothing.
    ///
    /// With contacts it waits up to 5 s to meet one, and up to 5 s for the registration; what takes longer goes on in the
    /// background. Cancel-safety: dropping the future before a contact was met leaves the agent unregistered, and a later
    /// call does it.
    pub async fn register(&self) {
        if !self.0.contacts.is_empty() {
            self.meet().await;
        }
        let registration = self.0.registration.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(registration) = registration else { return };
        let announced = self.announce(registration);
        if !self.0.contacts.is_empty() {
            let deadline = self.0.world.clock.now() + JOIN_WITHIN;
            // Late or failed, it goes on in the background.
            let _ = timeout_at(&*self.0.world.clock, deadline, announced).await;
        }
    }

    /// Waits for the first certified peer, but not for long: a contact may be down, and the agent is of use without. When all
    /// contacts have turned out to be no agents, such as IPFS nodes, nobody is waited for.
    async fn meet(&self) {
        let World { network, clock, .. } = &self.0.world;
        let mut events = network.events();
        let met = async {
            let mut strangers = 0;
            while strangers < self.0.contacts.len() && !network.peers().iter().any(|peer| peer.agent.is_some()) {
                match events.next().await {
                    Some(PeerEvent::Connected(info)) => strangers += usize::from(info.agent.is_none()),
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if timeout_at(&**clock, clock.now() + JOIN_WITHIN, met).await.is_err() {
            let contacts: Vec<_> = self.0.contacts.iter().map(ToString::to_string).collect();
            tracing::warn!("no contact has answered yet: {}; trying on in the background", contacts.join(", "));
        }
    }

    /// Registers in the background: in a young network there may be nobody yet to place a record with, and discovery
    /// tries again by itself. The receiver hears of the end of the first try.
    fn announce(&self, registration: Registration) -> oneshot::Receiver<()> {
        let (done, announced) = oneshot::channel();
        let discovery = self.0.discovery.clone();
        self.background(async move {
            if let Err(error) = discovery.register(registration).await {
                tracing::info!(%error, "the registration is not placed everywhere yet");
            }
            // Nobody waits for it in a World that was brought along.
            let _ = done.send(());
        });
        announced
    }

    pub(crate) fn background(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut background = self.0.background.lock().unwrap_or_else(PoisonError::into_inner);
        background.spawn(task.in_current_span());
    }

    /// Who the agent is.
    pub fn id(&self) -> AgentId {
        self.0.identity.agent()
    }

    /// Its keys and certificate.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Find others, and be found.
    pub fn discovery(&self) -> &Discovery {
        &self.0.discovery
    }

    /// Talk to others.
    pub fn messaging(&self) -> &Messaging {
        &self.0.messaging
    }

    /// Keep and share content.
    pub fn blocks(&self) -> &Blocks {
        &self.0.blocks
    }

    /// Have work done, and do it for others.
    pub fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    /// The World that the agent lives in.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// What happens to the agent, from now on.
    pub fn events(&self) -> Events {
        let sources = [
            self.0.world.network.events().map(Event::Peer).boxed(),
            self.0.discovery.events().map(Event::Discovery).boxed(),
            self.0.blocks.provide_events().map(Event::Blocks).boxed(),
        ];
        let mut closed = self.0.closed.subscribe();
        // An error says that the last handle was dropped.
        let end = async move { drop(closed.wait_for(|closed| *closed).await) };
        Events(stream::select_all(sources).take_until(end).boxed())
    }

    /// What the agent has, at a glance.
    pub fn status(&self) -> Status {
        let network = &self.0.world.network;
        Status {
            agent: self.id(),
            peer: network.local_peer(),
            addrs: network.local_addrs(),
            connected_peers: network.peers().len(),
            known_agents: self.0.discovery.known().len(),
        }
    }

    /// Ends gracefully: takes no more work, lets what runs come to its end within its limits, withdraws its capabilities
    /// (for 2 s at most), makes everything durable, and leaves the network. Later calls return when the first is done or at once.
    ///
    /// Cancel-safety: may be dropped and called again.
    pub async fn shutdown(&self) {
        drop(std::mem::take(&mut *self.0.served.lock().unwrap_or_else(PoisonError::into_inner)));
        self.0.tasks.shutdown(TASK_GRACE).await;
        self.withdraw().await;
        self.0.discovery.close().await;
        self.0.messaging.shutdown().await;
        if let Err(error) = self.0.blocks.shutdown().await {
            tracing::error!(%error, "the block store could not be flushed");
        }
        self.0.background.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.0.closed.send_replace(true);
        #[cfg(feature = "libp2p")]
        {
            let below = self.0.below.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(below) = below
                && let Err(error) = below.net.shutdown().await
            {
                tracing::error!(%error, "addresses and records of the network could not be written");
            }
        }
    }

    /// Tells the others that this agent is no longer to be found, if it was; whoever cannot be told hears of it when the
    /// record expires.
    async fn withdraw(&self) {
        let registered = self.0.registration.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let clock = &*self.0.world.clock;
        if registered && !self.0.world.network.peers().is_empty() {
            // Late, failed or after an earlier shutdown: it ends all the same.
            let _ = timeout_at(clock, clock.now() + WITHDRAW_WITHIN, self.0.discovery.withdraw()).await;
        }
    }

    /// Renews the device certificate when half of its life is over, for as long as the agent runs.
    #[cfg(feature = "libp2p")]
    pub(crate) fn keep_certified(&self) {
        const CHECK: Duration = Duration::from_secs(3600);
        let weak = Arc::downgrade(&self.0);
        let clock = self.0.world.clock.clone();
        self.background(async move {
            loop {
                clock.sleep_until(clock.now() + CHECK).await;
                let Some(inner) = weak.upgrade() else { return };
                if let Err(error) = inner.renew_certificate().await {
                    tracing::warn!(%error, "the device certificate could not be renewed; trying again in an hour");
                }
            }
        });
    }
}

#[cfg(feature = "libp2p")]
impl Inner {
    async fn renew_certificate(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let now = self.world.clock.wall();
        if !self.identity.certificate().is_due(now) {
            return Ok(());
        }
        self.identity.renew_certificate(now).await?;
        let below = self.below.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(below) = &*below {
            below.key_file.save(&*self.world.disk, &*self.world.entropy)?;
        }
        Ok(())
    }
}
