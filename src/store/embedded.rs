//! The store in the process: the scripts of `lua/` run on Lua 5.1, as they
//! do in Redis, over a store that knows the commands they use.

mod command;
mod dataset;
mod values;

use std::{
    collections::HashMap,
    fs,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use mlua::{Function, Lua, LuaOptions, MultiValue, StdLib, Table, Value};
use tokio::sync::mpsc;
use uuid::Uuid;

use self::dataset::Dataset;
use super::{Reply, Script, StoreError, primary::Home, shards::LOCK_TAG};
use crate::boot_time::BootTime;

/// A text that is kept under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub key: String,
    pub value: String,
    /// When it lapses, in milliseconds since 1970; `None` for never.
    pub expires_ms: Option<u64>,
}

/// Where the embedded store has the time from, so that tests can move it.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since 1970.
    fn now_us(&self) -> u64;

    /// What a later process needs to go on with this clock; empty if none can.
    fn anchor(&self) -> String {
        String::new()
    }
}

/// The time of day when the process started, and what has passed since on a clock that
/// nobody can set: setting the machine's clock ends no lease early.
#[derive(Clone, Debug)]
pub struct BootClock {
    /// Which start of the machine the other clock counts from; empty if that is not known.
    boot: String,
    offset_us: u64,
}

/// A store that lives and dies with the process.
pub struct Embedded {
    engine: Mutex<Engine>,
    clock: Box<dyn Clock>,
    home: Home,
    process: String,
}

/// What a store had stored at some time.
#[cfg(feature = "simulation")]
#[derive(Clone, Default)]
pub struct Snapshot(Dataset);

/// One Lua state, whose application data is the [`Dataset`].
struct Engine {
    lua: Lua,
    loaded: HashMap<Loaded, Function>,
}

/// What a loaded script is known by.
#[cfg(not(feature = "simulation"))]
type Loaded = &'static str;
#[cfg(feature = "simulation")]
type Loaded = (&'static str, Option<crate::mends::Mend>);

#[cfg(not(feature = "simulation"))]
fn loaded(script: &'static Script) -> Loaded {
    script.name
}

#[cfg(feature = "simulation")]
fn loaded(script: &'static Script) -> Loaded {
    (script.name, crate::mends::lua_key())
}

#[cfg(not(feature = "simulation"))]
fn source(script: &'static Script) -> &'static str {
    script.source
}

#[cfg(feature = "simulation")]
fn source(script: &'static Script) -> String {
    crate::mends::apply(script.source)
}

impl Embedded {
    /// How many messages a subscriber may be behind before it misses some.
    pub const SUBSCRIBER_BACKLOG_MAX: usize = 1024;

    /// An empty store.
    ///
    /// # Errors
    /// When no Lua state can be made.
    pub fn new(clock: impl Clock) -> Result<Self, StoreError> {
        let engine = Engine::new().map_err(refused)?;
        let process = format!("{}{}", clock.anchor(), Uuid::new_v4());
        // Only the one process that has the database can make another.
        let home = Home::new(LOCK_TAG, None, Some("embedded"));
        Ok(Self { engine: Mutex::new(engine), clock: Box::new(clock), home, process })
    }

    /// The same with a ceiling: once keys and values take more memory than that,
    /// scripts that would begin with a write are refused, as by a Redis with its memory
    /// full, until enough has lapsed or was deleted.
    #[must_use]
    pub fn with_ceiling(self, bytes: usize) -> Self {
        if let Some(mut store) = self.engine().lua.app_data_mut::<Dataset>() {
            store.set_ceiling(bytes);
        }
        self
    }

    /// The memory that keys and values take.
    pub fn bytes(&self) -> usize {
        self.engine().lua.app_data_ref::<Dataset>().map_or(0, |store| store.bytes())
    }

    /// Runs a script as a whole, as Redis would.
    ///
    /// # Errors
    /// When the script raises an error.
    pub fn run(&self, script: &'static Script, keys: &[&str], args: &[&str]) -> Result<Reply, StoreError> {
        self.engine().run(script, keys, args, self.clock.now_us()).map_err(refused)
    }

    /// Listens to a channel.
    pub fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel(Self::SUBSCRIBER_BACKLOG_MAX);
        if let Some(mut store) = self.engine().lua.app_data_mut::<Dataset>() {
            store.subscribe(channel, sender);
        }
        receiver
    }

    /// All keys that begin with `prefix` and have a text, in no order.
    pub fn texts(&self, prefix: &str) -> Vec<Kept> {
        let now_us = self.clock.now_us();
        let engine = self.engine();
        let store = engine.lua.app_data_mut::<Dataset>();
        store
            .map(|mut store| {
                store.begin(now_us);
                store.texts(prefix)
            })
            .unwrap_or_default()
    }

    /// All that is stored now, for a simulator that loses what comes after.
    #[cfg(feature = "simulation")]
    pub fn snapshot(&self) -> Snapshot {
        let engine = self.engine();
        let store = engine.lua.app_data_ref::<Dataset>();
        let mut data = store.map(|store| store.clone()).unwrap_or_default();
        data.drop_subscribers();
        Snapshot(data)
    }

    /// Has stored what was stored then, and nothing else.
    #[cfg(feature = "simulation")]
    pub fn replace(&self, snapshot: &Snapshot) {
        if let Some(mut store) = self.engine().lua.app_data_mut::<Dataset>() {
            store.replace(&snapshot.0);
        }
    }

    /// Has no subscribers any more.
    #[cfg(feature = "simulation")]
    pub fn drop_subscribers(&self) {
        if let Some(mut store) = self.engine().lua.app_data_mut::<Dataset>() {
            store.drop_subscribers();
        }
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// What it calls itself: another name each time.
    pub(super) fn process(&self) -> String {
        self.process.clone()
    }

    /// The time that scripts see, in microseconds since 1970.
    pub fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    /// A script that panicked has left the store as its last command did, just
    /// as a script that raised an error: what other scripts find is sound.
    fn engine(&self) -> std::sync::MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    fn new() -> mlua::Result<Self> {
        let lua = Lua::new_with(StdLib::STRING | StdLib::TABLE | StdLib::MATH, LuaOptions::default())?;
        lua.set_app_data(Dataset::default());

        let redis = lua.create_table()?;
        redis.set("call", lua.create_function(|lua, args| command::call(lua, &args))?)?;
        redis.set("pcall", lua.create_function(command::pcall)?)?;
        let globals = lua.globals();
        globals.set("redis", redis)?;

        // Redis lets no script make a global; neither does this store, so
        // that a script which forgets `local` fails here, too.
        let guard = lua.create_table()?;
        guard.set(
            "__newindex",
            lua.create_function(|_, (_, name, _): (Table, Value, Value)| -> mlua::Result<()> {
                Err(mlua::Error::runtime(format!("a script made the global {name:?}")))
            })?,
        )?;
        globals.set_metatable(Some(guard))?;
        Ok(Self { lua, loaded: HashMap::new() })
    }

    fn run(&mut self, script: &'static Script, keys: &[&str], args: &[&str], now_us: u64) -> mlua::Result<Reply> {
        let function = match self.loaded.get(&loaded(script)) {
            Some(function) => function.clone(),
            None => {
                let function = self.lua.load(source(script)).set_name(script.name).into_function()?;
                self.loaded.insert(loaded(script), function.clone());
                function
            }
        };
        if let Some(mut store) = self.lua.app_data_mut::<Dataset>() {
            store.begin(now_us);
        }
        let globals = self.lua.globals();
        globals.raw_set("KEYS", self.lua.create_sequence_from(keys.iter().copied())?)?;
        globals.raw_set("ARGV", self.lua.create_sequence_from(args.iter().copied())?)?;
        read_reply(function.call::<MultiValue>(())?)
    }
}

/// Turns what a script returned into words, as Redis's protocol would.
fn read_reply(returned: MultiValue) -> mlua::Result<Reply> {
    let Some(Value::Table(table)) = returned.into_iter().next() else {
        return Err(mlua::Error::runtime("a script must return an array of words"));
    };
    let mut reply = Reply::default();
    for value in table.sequence_values::<Value>() {
        match value? {
            Value::String(text) => reply.push(&text.to_str()?),
            Value::Integer(number) => reply.push(&number.to_string()),
            // The protocol has integers only; Redis cuts the fraction off.
            Value::Number(number) => reply.push(&format!("{:.0}", number.trunc())),
            other => {
                let complaint = format!("a script returned a {} in its array", other.type_name());
                return Err(mlua::Error::runtime(complaint));
            }
        }
    }
    Ok(reply)
}

fn refused(error: mlua::Error) -> StoreError {
    StoreError::Refused(error.to_string())
}

impl BootClock {
    /// How far the machine's clock may be from this one before it is worth a word.
    const NOTABLE_US: u64 = 1_000_000;

    /// One that agrees with the machine's clock now.
    pub fn start() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { boot: boot.trim().to_owned(), offset_us: wall_us().saturating_sub(since_boot_us()) }
    }

    /// One that goes on with the clock of a former process, as its store was called,
    /// if the machine has run since; else one that agrees with the machine's clock.
    pub fn resume(process: &str) -> Self {
        let clock = Self::start();
        let mut fields = process.split('/');
        let (boot, offset_us) = (fields.next().unwrap_or_default(), fields.next().and_then(|field| field.parse().ok()));
        match offset_us {
            Some(offset_us) if !clock.boot.is_empty() && boot == clock.boot => Self { offset_us, ..clock },
            _ => clock,
        }
    }

    /// By how many seconds the machine's clock is ahead of this one, if that is worth a
    /// word.
    pub fn wall_ahead(&self) -> Option<f64> {
        let ahead_us = wall_us() as i64 - self.now_us() as i64;
        (ahead_us.unsigned_abs() > Self::NOTABLE_US).then_some(ahead_us as f64 / 1e6)
    }
}

impl Clock for BootClock {
    fn now_us(&self) -> u64 {
        self.offset_us + since_boot_us()
    }

    fn anchor(&self) -> String {
        format!("{}/{}/", self.boot, self.offset_us)
    }
}

fn since_boot_us() -> u64 {
    BootTime::now().as_nanos() / 1000
}

fn wall_us() -> u64 {
    // Before 1970 there is no lease to keep; zero is as good as any.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &'static str) -> Result<Reply, StoreError> {
        let script = Box::leak(Box::new(Script::new("test", source)));
        Embedded::new(BootClock::start())?.run(script, &["key"], &["arg"])
    }

    #[test]
    fn a_reply_ends_at_the_first_nil_and_has_whole_numbers() {
        let reply = run("return {'a', 12, 3.9, ARGV[1], KEYS[1], nil, 'lost'}");
        assert_eq!(reply.unwrap(), ["a", "12", "3", "arg", "key"].into_iter().collect());
    }

    #[test]
    fn errors_are_answers() {
        for source in [
            "return redis.call('NONSENSE')",
            "redis.call('SET', KEYS[1]) return {}",
            "x = 1 return {}",
            "return 1",
            "return {{}}",
            "error('no')",
            "this is not Lua",
            "redis.call('SET', KEYS[1], 'x') return {redis.call('ZCARD', KEYS[1])}",
        ] {
            assert!(matches!(run(source), Err(StoreError::Refused(_))), "{source}");
        }
        assert!(run("redis.pcall('SET', KEYS[1]) return {'went on'}").is_ok());
    }

    #[test]
    fn beyond_its_ceiling_it_lets_scripts_go_on_that_began_by_deleting_and_no_others() {
        let script = |source| &*Box::leak(Box::new(Script::new("test", source)));
        let put = Box::leak(Box::new(Script::new("put", "redis.call('SET', KEYS[1], ARGV[1]) return {'put'}")));
        let store = Embedded::new(BootClock::start()).unwrap().with_ceiling(10_000);
        let large = "x".repeat(10_000);
        assert!(store.run(put, &["large"], &[&large]).is_ok(), "the one that exceeds it");
        for source in [
            "redis.call('ZADD', KEYS[1], '1', 'x') return {}",
            "redis.call('HSET', KEYS[1], 'x', 'y') return {}",
            "redis.call('GET', KEYS[1]) redis.call('SET', KEYS[1], 'x') return {}",
        ] {
            let script = Box::leak(Box::new(Script::new(Box::leak(source.to_owned().into_boxed_str()), source)));
            let refused = store.run(script, &["other"], &[]).unwrap_err().to_string();
            assert!(refused.contains("OOM"), "{refused}");
        }
        let goes_on =
            script("redis.call('PEXPIRE', KEYS[1], '60000') redis.call('SET', KEYS[1], 'small') return {'on'}");
        assert_eq!(store.run(goes_on, &["large"], &[]).unwrap().status(), "on");
        assert!(store.bytes() < 1000, "{}", store.bytes());
        assert!(store.run(put, &["other"], &["x"]).is_ok());
    }

    #[test]
    fn nothing_is_counted_of_what_is_gone() {
        let source = "
            for n = 1, 3000 do
              redis.call('ZADD', KEYS[1], tostring(n), 'member-' .. n % 2000)
              redis.call('HSET', KEYS[2], 'field-' .. n % 2000, string.rep('x', n))
            end
            redis.call('ZADD', KEYS[1], 'XX', '5', 'member-7')
            redis.call('ZADD', KEYS[1], 'XX', '5', 'nobody')
            redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(2000')
            for n = 0, 2000 do
              redis.call('ZREM', KEYS[1], 'member-' .. n)
              redis.call('HDEL', KEYS[2], 'field-' .. n)
            end
            redis.call('SET', KEYS[3], 'text', 'PX', '5')
            redis.call('SET', KEYS[3], 'longer', 'PX', '5')
            redis.call('DEL', KEYS[3])
            return {'done'}";
        let script = Box::leak(Box::new(Script::new("test", source)));
        let store = Embedded::new(BootClock::start()).unwrap();
        assert_eq!(store.run(script, &["set", "hash", "text"], &[]).unwrap().status(), "done");
        assert_eq!(store.bytes(), 0);
    }

    #[test]
    fn messages_reach_subscribers_and_are_lost_beyond_the_backlog() {
        let embedded = Embedded::new(BootClock::start()).unwrap();
        let mut receiver = embedded.subscribe("news");
        let shout = Box::leak(Box::new(Script::new("shout", "return {redis.call('PUBLISH', KEYS[1], ARGV[1])}")));
        for n in 0..=Embedded::SUBSCRIBER_BACKLOG_MAX {
            embedded.run(shout, &["news"], &[&n.to_string()]).unwrap();
        }
        let received: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        assert_eq!(received.len(), Embedded::SUBSCRIBER_BACKLOG_MAX);
        assert_eq!(received[0], "0");

        drop(receiver);
        assert_eq!(embedded.run(shout, &["news"], &["x"]).unwrap().status(), "0");
    }
}
