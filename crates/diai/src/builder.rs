use std::{fmt, sync::Arc};

use diai_core::{Refusal, Reply, Request, Service, World, service_fn};
use diai_discovery::{AttributeValue, Attributes, CapabilityPath, Registration};
use diai_identity::Identity;
use diai_tasks::NativeTask;

use crate::{Agent, StartError, agent::Parts};

#[cfg(feature = "libp2p")]
use crate::Preset;

/// What an [`Agent`] is to be. Made by [`Agent::builder`]; every setting has a default but the data folder.
#[derive(Default)]
pub struct AgentBuilder {
    #[cfg(feature = "libp2p")]
    network: NetworkSettings,
    capabilities: Vec<String>,
    attributes: Attributes,
    pub(crate) register_later: bool,
    pub(crate) services: Vec<(String, Arc<dyn Service>)>,
    pub(crate) native_tasks: Vec<(String, Arc<dyn NativeTask>)>,
    pub(crate) messaging: diai_messaging::Config,
    pub(crate) discovery: diai_discovery::Config,
    pub(crate) blocks: diai_blocks::BlocksConfig,
    pub(crate) tasks: diai_tasks::Config,
}

#[cfg(feature = "libp2p")]
#[derive(Default)]
struct NetworkSettings {
    data_dir: Option<std::path::PathBuf>,
    passphrase: Option<String>,
    preset: Preset,
    listen: Vec<diai_core::Multiaddr>,
    contacts: Vec<diai_core::Multiaddr>,
    mdns: Option<bool>,
}

impl fmt::Debug for AgentBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentBuilder").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

impl AgentBuilder {
    /// Something the agent can do, such as `modeling/3d/jewelry`; others find it by this path and by every ancestor.
    pub fn capability(mut self, path: impl Into<String>) -> Self {
        self.capabilities.push(path.into());
        self
    }

    /// A fact about the agent that others see in its record, such as its price or region.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<AttributeValue>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// Serves `name` to other agents. The handler runs on the session's task: hand heavy work to
    /// [`diai_core::offload`].
    pub fn service<F, R>(mut self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Reply, Refusal>> + Send + 'static,
    {
        self.services.push((name.into(), service_fn(handler)));
        self
    }

    /// Starts without registering the agent, so that it is not found yet: for services that need the agent itself, and so
    /// can only be registered with [`Agent::messaging`] once it is there. Call [`Agent::register`] when all are.
    pub fn register_later(mut self) -> Self {
        self.register_later = true;
        self
    }

    /// A task that is no WASM program: others run it by its name, through the same door, when tasks are served.
    pub fn native_task(mut self, name: impl Into<String>, task: Arc<dyn NativeTask>) -> Self {
        self.native_tasks.push((name.into(), task));
        self
    }

    /// Whether to run other agents' tasks. Default no. Who may bring them, and how many run at a time, is in
    /// [`AgentBuilder::tasks`]; what was set there is kept. Without it every agent that can reach this one may: see
    /// [`Policy`](diai_tasks::Policy).
    pub fn serve_tasks(mut self, serve: bool) -> Self {
        if serve {
            // Whom `tasks` allowed stays as it is.
            self.tasks.serve.get_or_insert_default();
        } else {
            self.tasks.serve = None;
        }
        self
    }

    /// The configuration of tasks, in place of what [`AgentBuilder::serve_tasks`] said before.
    pub fn tasks(mut self, config: diai_tasks::Config) -> Self {
        self.tasks = config;
        self
    }

    /// The configuration of messaging.
    pub fn messaging(mut self, config: diai_messaging::Config) -> Self {
        self.messaging = config;
        self
    }

    /// The configuration of discovery.
    pub fn discovery(mut self, config: diai_discovery::Config) -> Self {
        self.discovery = config;
        self
    }

    /// The configuration of the block store and its exchange.
    pub fn blocks(mut self, config: diai_blocks::BlocksConfig) -> Self {
        self.blocks = config;
        self
    }

    pub(crate) fn registration(&self) -> Result<Registration, StartError> {
        let parse = |text: &String| {
            text.parse::<CapabilityPath>().map_err(|source| StartError::Capability { text: text.clone(), source })
        };
        // Who serves tasks is found by those that ask for no capability in particular.
        let served = self.tasks.serve.is_some().then(|| diai_tasks::CAPABILITY.to_owned());
        let capabilities = self.capabilities.iter().chain(&served).map(parse).collect::<Result<_, _>>()?;
        Ok(Registration { capabilities, attributes: self.attributes.clone() })
    }

    /// Starts the agent in a World that is there already: a simulation, or a libp2p swarm of your own. Needs a tokio
    /// runtime. Whoever made the World ends it after [`Agent::shutdown`], and keeps `identity` certified.
    ///
    /// ```
    /// use diai::{Agent, FindOptions, Identity, core::{memory::{AgentSpec, Sim}, os::OsEntropy}};
    ///
    /// let sim = Sim::new(1);
    /// let join = || {
    ///     let identity = Identity::generate(&OsEntropy, sim.wall());
    ///     let certificate = identity.certificate().to_bytes();
    ///     (sim.join(AgentSpec { agent: identity.agent(), peer: identity.peer(), certificate }), identity)
    /// };
    /// let ((here, alice), (there, bob)) = (join(), join());
    /// let found = sim.run(async {
    ///     let alice = Agent::builder().start_in(here, alice).await?;
    ///     let bob = Agent::builder().capability("modeling/3d/jewelry").start_in(there, bob).await?;
    ///     alice.world().network.connect(bob.status().peer, Vec::new()).await?;
    ///     let found = alice.discovery().find_agent(bob.id(), FindOptions::default().within).await?;
    ///     alice.shutdown().await;
    ///     bob.shutdown().await;
    ///     Ok::<_, Box<dyn std::error::Error>>((found.record().agent, bob.id()))
    /// })?;
    /// assert_eq!(found.0, found.1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cancel-safety: dropping the future stops what was started.
    pub async fn start_in(self, world: World, identity: Identity) -> Result<Agent, StartError> {
        Agent::start(self, Parts { world, identity, below: None, contacts: Vec::new() }).await
    }
}

#[cfg(feature = "libp2p")]
mod over_libp2p {
    use std::{path::PathBuf, sync::Arc, thread::available_parallelism};

    use diai_core::{
        Clock, Disk, Entropy, Multiaddr, offload as offload_to,
        os::{FsDisk, OsClock, OsEntropy, ThreadPool},
    };
    use diai_identity::key_file::KeyFile;
    use diai_net::Net;

    use super::AgentBuilder;
    use crate::{
        Agent, Preset, StartError,
        agent::{Below, Parts},
    };

    impl AgentBuilder {
        /// The folder of the agent's keys, blocks and records; made if it is not there. One process at a time uses it.
        pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
            self.network.data_dir = Some(path.into());
            self
        }

        /// The passphrase of the key file. Without one the file is plain, readable by its owner only, and a warning is
        /// logged when it is made. A plain one cannot be encrypted later: start with a new folder.
        pub fn passphrase(mut self, passphrase: impl Into<String>) -> Self {
            self.network.passphrase = Some(passphrase.into());
            self
        }

        /// Where the agent lives. Default [`Preset::Lan`].
        pub fn preset(mut self, preset: Preset) -> Self {
            self.network.preset = preset;
            self
        }

        /// An address to listen on, such as `/ip4/0.0.0.0/tcp/4001`; any named replaces those of the preset.
        pub fn listen(mut self, addr: Multiaddr) -> Self {
            self.network.listen.push(addr);
            self
        }

        /// Somebody who is in the network already.
        pub fn contact(mut self, addr: Multiaddr) -> Self {
            self.network.contacts.push(addr);
            self
        }

        /// Whether to find peers of the local network by multicast DNS. Default: as the preset says.
        pub fn mdns(mut self, on: bool) -> Self {
            self.network.mdns = Some(on);
            self
        }

        /// Starts the agent over libp2p: opens the key file (or makes it), joins the network, and registers the agent's
        /// capabilities as [`Agent::register`] does, unless [`AgentBuilder::register_later`] was called. Needs a tokio
        /// runtime with IO and time enabled.
        ///
        /// Cancel-safety: dropping the future stops what was started.
        pub async fn start(mut self) -> Result<Agent, StartError> {
            let settings = std::mem::take(&mut self.network);
            let path = settings.data_dir.clone().ok_or(StartError::NoDataDir)?;
            // Before a key is made for an agent that cannot start.
            self.registration()?;
            let unusable = |source| StartError::DataDir { path: path.display().to_string(), source };
            let disk: Arc<dyn Disk> = Arc::new(FsDisk::open(&path).map_err(unusable)?);
            let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(OsClock::new()), Arc::new(OsEntropy));
            // Each guest holds a thread; the store and the keys need theirs meanwhile.
            let threads = available_parallelism().map_or(2, usize::from).max(2) + self.tasks.executor.max_guests;
            let offload = Arc::new(ThreadPool::new(threads));
            let key_file = {
                let (disk, clock, entropy) = (disk.clone(), clock.clone(), entropy.clone());
                let passphrase = settings.passphrase.clone();
                // Argon2id takes a good part of a second: not on this thread.
                let open = move || KeyFile::open_or_create(&*disk, &*clock, &*entropy, passphrase.as_deref());
                offload_to(&*offload, open).await.map_err(|_| StartError::KeyFileTask)??
            };
            if settings.passphrase.is_none() && key_file.is_new() {
                tracing::warn!(folder = %path.display(), "the new key file is not encrypted, and cannot be later: see AgentBuilder::passphrase");
            }
            let identity = key_file.identity();
            let parts = diai_net::Parts { clock, entropy, disk, offload };
            let config = settings.config();
            let contacts = config.contacts.clone();
            let net = Net::start(identity.clone(), parts, config).await?;
            let world = net.world();
            let below = Some(Below { net, key_file });
            let agent = Agent::start(self, Parts { world, identity, below, contacts }).await?;
            agent.keep_certified();
            Ok(agent)
        }
    }

    impl super::NetworkSettings {
        fn config(self) -> diai_net::Config {
            let mut config = self.preset.config();
            if !self.listen.is_empty() {
                config.listen = self.listen;
            }
            config.contacts.extend(self.contacts);
            config.mdns = self.mdns.unwrap_or(config.mdns);
            config
        }
    }
}

#[cfg(test)]
mod tests {
    use diai_core::AgentId;
    use diai_tasks::{Config, Policy, Serving};

    use super::AgentBuilder;

    #[test]
    fn to_serve_tasks_keeps_the_list_of_those_who_may_bring_them() {
        let nobody = Policy::Allow(std::iter::empty::<AgentId>().collect());
        let serving = Serving { policy: nobody.clone(), ..Serving::default() };
        let config = Config { serve: Some(serving), ..Config::default() };
        let builder = AgentBuilder::default().tasks(config).serve_tasks(true);
        assert_eq!(builder.tasks.serve.as_ref().map(|serving| &serving.policy), Some(&nobody));
        assert!(builder.serve_tasks(false).tasks.serve.is_none());
        let all = AgentBuilder::default().serve_tasks(true).tasks.serve;
        assert_eq!(all.map(|serving| serving.policy), Some(Policy::Certified));
    }
}
