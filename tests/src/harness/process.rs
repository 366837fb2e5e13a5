//! The real programs as processes: `kinesin serve` and `kinesin-agent`, started, killed and measured by their ids.
//! What they print goes to a file, which an error shows the end of.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use store::client::{Client, Target};

use crate::clock;

/// How long a program may take until it works.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the programs are: the folder in `KINESIN_BIN_DIR`, or the one that the running program was built into.
///
/// # Errors
/// When the program is in neither: `cargo build --release` first.
pub fn binary(name: &str) -> io::Result<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("KINESIN_BIN_DIR").map(PathBuf::from).into_iter().collect();
    if let Ok(me) = std::env::current_exe() {
        places.extend(me.ancestors().skip(1).take(2).map(Path::to_path_buf));
    }
    let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("no {name} in {places:?}: run `cargo build --release`"),
        )
    })
}

/// Whether the real programs are there to be run.
#[must_use]
pub fn binaries_are_there() -> bool {
    binary("kinesin").is_ok() && binary("kinesin-agent").is_ok()
}

/// What a suite does where something it needs is not there: says so on standard error, whoever listens, and passes;
/// where everything is to be tested (`KINESIN_TESTS_ALL=1`), it fails.
///
/// # Panics
/// With what is missing, where everything is to be tested.
pub fn skip(missing: &str) {
    assert!(std::env::var_os("KINESIN_TESTS_ALL").is_none_or(|all| all != "1"), "{missing}");
    // Not by the macros: the test harness keeps what they print of tests that pass.
    let _ = writeln!(io::stderr(), "SKIPPED: {missing}");
}

/// What a test does where the machine does not allow what it needs (mounting, a namespace): says so on standard error and
/// passes, everywhere.
pub fn not_here(why: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "SKIPPED, as this machine does not allow it: {why}");
}

/// Whether the real programs are there; says so where they are not.
///
/// # Panics
/// As [`skip`].
#[must_use]
pub fn ready() -> bool {
    let there = binaries_are_there();
    if !there {
        skip("kinesin and kinesin-agent are not built (`cargo build --release`, KINESIN_BIN_DIR)");
    }
    there
}

/// Runs a program to its end.
///
/// # Errors
/// When it can't be started.
pub fn run(name: &str, words: &[&str]) -> io::Result<Output> {
    Command::new(binary(name)?).args(words).stdin(Stdio::null()).output()
}

/// Ports below those that the kernel gives to whoever connects: nobody has one in passing.
const PORTS: std::ops::Range<u32> = 10_240..32_000;

/// A port of 127.0.0.1 that was free a moment ago, and that this process has not been given before.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes that run at the same time begin far apart.
    let begin = std::process::id().wrapping_mul(997);
    for _ in 0..PORTS.len() {
        let next = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32;
        let port = (PORTS.start + next) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no port of 127.0.0.1 is free"))
}

/// A program that runs. Killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts one of our programs with its output appended to a file.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(name: &str, words: &[&str], output: &Path) -> io::Result<Process> {
        Process::start_program(&binary(name)?, words, output)
    }

    /// Starts any program, the same way.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_program(program: &Path, words: &[impl AsRef<OsStr>], output: &Path) -> io::Result<Process> {
        Process::start_with(program, words, &[], output)
    }

    /// The same with more in its environment.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_with(
        program: &Path,
        words: &[impl AsRef<OsStr>],
        env: &[(String, String)],
        output: &Path,
    ) -> io::Result<Process> {
        let file = File::options().create(true).append(true).open(output)?;
        let child = Command::new(program)
            .args(words)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Process { name, child, output: output.to_path_buf() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it where it is, as `kill -9` does.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Asks it to end, as `kill` does, and waits.
    ///
    /// # Errors
    /// When it can't be asked, or does not end in time.
    pub fn terminate(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// Asks it to end, as Ctrl-C does, and waits.
    ///
    /// # Errors
    /// When it can't be asked, or does not end in time.
    pub fn interrupt(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::INT)?;
        self.wait()
    }

    /// Stops it where it is, as a debugger does.
    ///
    /// # Errors
    /// When it can't be.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it can't be.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(id.ok_or(io::ErrorKind::NotFound)?, signal)?)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let mut status = None;
        clock::eventually(PATIENCE, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status.ok_or_else(|| self.error("did not end in time"))
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// All that it has printed.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    fn error(&self, what: &str) -> io::Error {
        let printed = self.printed();
        let end: Vec<&str> = printed.lines().rev().take(12).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        io::Error::other(format!("{} {what}; it printed:\n{}", self.name, end.join("\n")))
    }

    /// CPU seconds so far, of all its threads, by proc(5).
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
        // 100 ticks a second on every Linux that this runs on.
        (ticks(11) + ticks(12)) / 100.0
    }

    /// A line of /proc/PID/status in bytes: `VmRSS` (now) or `VmHWM` (at most so far).
    #[must_use]
    pub fn memory_bytes(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        let kilobytes = found.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or_default() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A store as a process, on a port that stays the same over restarts.
#[derive(Debug)]
pub struct StoreProcess {
    /// The process; `None` while it is down.
    pub process: Option<Process>,
    /// The data folder.
    pub data: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it is started with from now on.
    pub launch: Launch,
    words: Vec<String>,
}

impl StoreProcess {
    /// Starts a store in `home/data`, with more words for `kinesin serve`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(home: &Path, words: &[&str]) -> io::Result<StoreProcess> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        StoreProcess::start_at(Launch::default(), home, address, words).await
    }

    /// The same at an address, with something around it.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_at(
        launch: Launch,
        home: &Path,
        address: SocketAddr,
        words: &[&str],
    ) -> io::Result<StoreProcess> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let mut store = StoreProcess { process: None, data: home.join("data"), address, launch, words };
        store.up().await?;
        Ok(store)
    }

    /// Starts it (again) and waits until it answers.
    ///
    /// # Errors
    /// When it ends, or does not answer in time.
    pub async fn up(&mut self) -> io::Result<()> {
        self.spawn()?;
        let begin = clock::now();
        while self.client().await.is_err() {
            let Some(process) = &mut self.process else { return Err(io::ErrorKind::NotFound.into()) };
            if let Some(status) = process.ended()? {
                return Err(process.error(&format!("ended with {status}")));
            }
            if clock::now().duration_since(begin) > PATIENCE {
                return Err(process.error("did not answer in time"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Starts it (again) and does not wait.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&mut self) -> io::Result<()> {
        let (data, listen) = (self.data.display().to_string(), self.address.to_string());
        let mut words = vec!["serve", "--data", &data, "--listen", &listen];
        words.extend(self.words.iter().map(String::as_str));
        let output = self.data.with_extension("store.out");
        if let Some(parent) = output.parent() {
            std::fs::create_dir_all(parent)?;
        }
        self.process = Some(self.launch.start("kinesin", &words, &output)?);
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Starts another one on this folder, at another port.
    ///
    /// # Errors
    /// When the program can't be run.
    pub fn start_second(&self) -> io::Result<Output> {
        run("kinesin", &["serve", "--data", &self.data.display().to_string(), "--listen", "127.0.0.1:0"])
    }

    /// All that it has printed, in all its lives.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("store.out")).unwrap_or_default()
    }

    /// A client with the operator's certificate.
    ///
    /// # Errors
    /// When the store is not there.
    pub async fn client(&self) -> io::Result<Client> {
        let target = Target::of_data_dir(&self.data).map_err(io::Error::other)?;
        Client::connect(&target).await.map_err(io::Error::other)
    }

    /// Runs `kinesin` with these words and `--data`, and returns what it printed.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn command(&self, words: &[&str]) -> io::Result<String> {
        let output = Command::new(binary("kinesin")?)
            .args(words)
            .arg("--data")
            .arg(&self.data)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("kinesin {}: {}: {said}", words.join(" "), output.status)))
    }

    /// An enrolment token for an agent.
    ///
    /// # Errors
    /// When the command fails or prints none.
    pub fn token(&self, agent: &str) -> io::Result<String> {
        let printed = self.command(&["agent", "enroll", agent])?;
        let token =
            printed.lines().find_map(|line| line.trim().strip_prefix("token = \"")?.strip_suffix('"'));
        token.map(str::to_owned).ok_or_else(|| io::Error::other(format!("no token in {printed:?}")))
    }
}

/// An agent as a process.
#[derive(Debug)]
pub struct AgentProcess {
    /// The process; `None` while it is down.
    pub process: Option<Process>,
    config: PathBuf,
    /// What it is started with from now on.
    pub launch: Launch,
}

/// What stands around a program when it is started.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Another program, with its words, that starts it (and becomes it, so that its id is the same).
    pub prefix: Vec<String>,
    /// More in its environment.
    pub env: Vec<(String, String)>,
}

impl Launch {
    fn start(&self, name: &str, words: &[&str], output: &Path) -> io::Result<Process> {
        let program = binary(name)?.display().to_string();
        let mut all: Vec<&str> = self.prefix.iter().map(String::as_str).collect();
        all.push(&program);
        all.extend(words);
        Process::start_with(Path::new(all[0]), &all[1..], &self.env, output)
    }
}

impl AgentProcess {
    /// Writes `home/NAME.toml` and starts an agent with it. `sources` is what follows `[agent]` and `[store]`; the
    /// spool is in `home/NAME-spool` unless `sources` has a `[spool]`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(
        home: &Path,
        name: &str,
        store: &StoreProcess,
        at: SocketAddr,
        sources: &str,
    ) -> io::Result<AgentProcess> {
        AgentProcess::start_by(Launch::default(), home, name, store, at, sources)
    }

    /// The same with something around it.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_by(
        launch: Launch,
        home: &Path,
        name: &str,
        store: &StoreProcess,
        at: SocketAddr,
        sources: &str,
    ) -> io::Result<AgentProcess> {
        let token = store.token(name)?;
        let spool = format!("\n[spool]\ndir = \"{}\"\n", home.join(format!("{name}-spool")).display());
        let spool = if sources.contains("[spool]") { "" } else { spool.as_str() };
        let text = format!(
            "[agent]\nname = \"{name}\"\n\n[store]\nurl = \"kinesin://{at}\"\nca = \"{}\"\ntoken = \"{token}\"\n{sources}\n{spool}",
            store.data.join("ca.pem").display(),
        );
        let config = home.join(format!("{name}.toml"));
        std::fs::write(&config, text)?;
        let mut agent = AgentProcess { process: None, config, launch };
        agent.up()?;
        Ok(agent)
    }

    /// Starts an agent with a configuration that is there.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_with(config: &Path) -> io::Result<AgentProcess> {
        let mut agent =
            AgentProcess { process: None, config: config.to_path_buf(), launch: Launch::default() };
        agent.up()?;
        Ok(agent)
    }

    /// All that it has printed, in all its lives.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.config.with_extension("out")).unwrap_or_default()
    }

    /// What `kinesin-agent status` says; nothing at all before the agent has written it.
    #[must_use]
    pub fn status(&self) -> agent::Snapshot {
        let output = run("kinesin-agent", &["status", "--config", &self.config.display().to_string()]);
        output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default()
    }

    /// Starts it (again).
    ///
    /// # Errors
    /// When it can't be started.
    pub fn up(&mut self) -> io::Result<()> {
        let output = self.config.with_extension("out");
        let config = self.config.display().to_string();
        self.process = Some(self.launch.start("kinesin-agent", &["--config", &config], &output)?);
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }
}
