//! The store inside the process: it runs the scripts of `lua/` on Lua 5.1, like Redis, with an
//! implementation of the Redis commands that they use.

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
use super::{Reply, Script, StoreError, primary::Primary, shards::LOCK_TAG};
use lockable_boot_time::BootTime;

/// A key with a string value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextEntry {
    pub key: String,
    pub value: String,
    /// The expiry in milliseconds since 1970; `None` for a key without expiry.
    pub expires_ms: Option<u64>,
}

/// The clock of the embedded store, which tests replace.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since 1970.
    fn now_us(&self) -> u64;

    /// The state from which a later process resumes this clock; empty if it cannot.
    fn anchor(&self) -> String {
        String::new()
    }
}

/// The time of day at the start of the process, plus the time since then on a clock that cannot
/// be set: setting the machine's clock expires no lease early.
#[derive(Clone, Debug)]
pub struct BootClock {
    /// The id of the machine's boot, to which `offset_us` refers; empty if unknown.
    boot: String,
    offset_us: u64,
}

/// A store that ends with the process.
pub struct Embedded {
    engine: Mutex<Engine>,
    clock: Box<dyn Clock>,
    primary: Primary,
    process: String,
}

/// A copy of a store's data.
#[cfg(feature = "simulation")]
#[derive(Clone, Default)]
pub struct Snapshot(Dataset);

/// A Lua state, with the [`Dataset`] as its application data.
struct Engine {
    lua: Lua,
    loaded: HashMap<Loaded, Function>,
}

/// The cache key of a loaded script.
#[cfg(not(feature = "simulation"))]
type Loaded = &'static str;
#[cfg(feature = "simulation")]
type Loaded = (&'static str, Option<crate::safeguards::Safeguard>);

#[cfg(not(feature = "simulation"))]
fn loaded(script: &'static Script) -> Loaded {
    script.name
}

#[cfg(feature = "simulation")]
fn loaded(script: &'static Script) -> Loaded {
    (script.name, crate::safeguards::lua_key())
}

#[cfg(not(feature = "simulation"))]
fn source(script: &'static Script) -> &'static str {
    script.source
}

#[cfg(feature = "simulation")]
fn source(script: &'static Script) -> String {
    crate::safeguards::apply(script.source)
}

impl Embedded {
    /// The number of undelivered messages after which a subscriber misses messages.
    pub const SUBSCRIBER_BACKLOG_MAX: usize = 1024;

    /// An empty store.
    ///
    /// # Errors
    /// When Lua cannot be initialized.
    pub fn new(clock: impl Clock) -> Result<Self, StoreError> {
        let engine = Engine::new().map_err(refused)?;
        let process = format!("{}{}", clock.anchor(), Uuid::new_v4());
        // The name is constant: only the process that has the database can create this store.
        let primary = Primary::new(LOCK_TAG, None, Some("embedded"));
        Ok(Self { engine: Mutex::new(engine), clock: Box::new(clock), primary, process })
    }

    /// Limits the memory of keys and values. While it is exceeded, the store rejects scripts that
    /// begin with a write that may need memory, like a Redis that has reached `maxmemory`.
    #[must_use]
    pub fn with_memory_limit(self, bytes: usize) -> Self {
        if let Some(mut store) = self.engine().lua.app_data_mut::<Dataset>() {
            store.set_memory_limit(bytes);
        }
        self
    }

    /// The memory of all keys and values, in bytes.
    pub fn bytes(&self) -> usize {
        self.engine().lua.app_data_ref::<Dataset>().map_or(0, |store| store.bytes())
    }

    /// Runs a script atomically, like Redis.
    ///
    /// # Errors
    /// When the script raises an error, or returns something other than an array of strings.
    pub fn eval(&self, script: &'static Script, keys: &[&str], args: &[&str]) -> Result<Reply, StoreError> {
        self.engine().eval(script, keys, args, self.clock.now_us()).map_err(refused)
    }

    /// Subscribes to a channel.
    pub fn subscribe(&self, channel: &str) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel(Self::SUBSCRIBER_BACKLOG_MAX);
        if let Some(mut store) = self.engine().lua.app_data_mut::<Dataset>() {
            store.subscribe(channel, sender);
        }
        receiver
    }

    /// All string keys with this prefix, in no order.
    pub fn texts(&self, prefix: &str) -> Vec<TextEntry> {
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

    /// Copies all data, for a simulated loss of later changes.
    #[cfg(feature = "simulation")]
    pub fn snapshot(&self) -> Snapshot {
        let engine = self.engine();
        let store = engine.lua.app_data_ref::<Dataset>();
        let mut data = store.map(|store| store.clone()).unwrap_or_default();
        data.drop_subscribers();
        Snapshot(data)
    }

    /// Replaces all data.
    #[cfg(feature = "simulation")]
    pub fn replace(&self, snapshot: &Snapshot) {
        if let Some(mut store) = self.engine().lua.app_data_mut::<Dataset>() {
            store.replace(&snapshot.0);
        }
    }

    /// Removes all subscribers.
    #[cfg(feature = "simulation")]
    pub fn drop_subscribers(&self) {
        if let Some(mut store) = self.engine().lua.app_data_mut::<Dataset>() {
            store.drop_subscribers();
        }
    }

    pub(super) fn primary(&self) -> &Primary {
        &self.primary
    }

    /// The identity of the process, which is different for each start.
    pub(super) fn process(&self) -> String {
        self.process.clone()
    }

    /// The time of the scripts, in microseconds since 1970.
    pub fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    /// After a panic the store is as after a script that raised an error: its commands up to then
    /// have run, and its data is valid.
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

        // Redis rejects a script that creates a global variable. So does this store, so that a
        // missing `local` fails here, too.
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

    fn eval(&mut self, script: &'static Script, keys: &[&str], args: &[&str], now_us: u64) -> mlua::Result<Reply> {
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

/// Converts a script's result as Redis's protocol does.
fn read_reply(returned: MultiValue) -> mlua::Result<Reply> {
    let Some(Value::Table(table)) = returned.into_iter().next() else {
        return Err(mlua::Error::runtime("a script must return an array of strings"));
    };
    let mut reply = Reply::default();
    for value in table.sequence_values::<Value>() {
        match value? {
            Value::String(text) => reply.push(&text.to_str()?),
            Value::Integer(number) => reply.push(&number.to_string()),
            // The protocol has integers only; Redis truncates.
            Value::Number(number) => reply.push(&format!("{:.0}", number.trunc())),
            other => {
                let message = format!("a script returned an array that contains a {}", other.type_name());
                return Err(mlua::Error::runtime(message));
            }
        }
    }
    Ok(reply)
}

fn refused(error: mlua::Error) -> StoreError {
    StoreError::Refused(error.to_string())
}

impl BootClock {
    /// The difference to the machine's clock that is worth a log line.
    const LOGGED_LEAD_US: u64 = 1_000_000;

    /// A clock that agrees with the machine's clock now.
    pub fn start() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { boot: boot.trim().to_owned(), offset_us: wall_us().saturating_sub(since_boot_us()) }
    }

    /// Continues the clock of an earlier process, given that process's identity, if the machine has
    /// not restarted since. Otherwise, a clock that agrees with the machine's clock now.
    pub fn resume(process: &str) -> Self {
        let clock = Self::start();
        let mut fields = process.split('/');
        let (boot, offset_us) = (fields.next().unwrap_or_default(), fields.next().and_then(|field| field.parse().ok()));
        match offset_us {
            Some(offset_us) if !clock.boot.is_empty() && boot == clock.boot => Self { offset_us, ..clock },
            _ => clock,
        }
    }

    /// How many seconds the machine's clock is ahead of this one, if the difference is more than a
    /// second.
    pub fn wall_clock_lead(&self) -> Option<f64> {
        let lead_us = wall_us() as i64 - self.now_us() as i64;
        (lead_us.unsigned_abs() > Self::LOGGED_LEAD_US).then_some(lead_us as f64 / 1e6)
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
    // Before 1970 the time is 0: there are no leases yet.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval_source(source: &'static str) -> Result<Reply, StoreError> {
        let script = Box::leak(Box::new(Script::new("test", source)));
        Embedded::new(BootClock::start())?.eval(script, &["key"], &["arg"])
    }

    #[test]
    fn reply_ends_at_first_nil_and_truncates_numbers() {
        let reply = eval_source("return {'a', 12, 3.9, ARGV[1], KEYS[1], nil, 'lost'}");
        assert_eq!(reply.unwrap(), ["a", "12", "3", "arg", "key"].into_iter().collect());
    }

    #[test]
    fn script_errors_are_refusals() {
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
            assert!(matches!(eval_source(source), Err(StoreError::Refused(_))), "{source}");
        }
        assert!(eval_source("redis.pcall('SET', KEYS[1]) return {'went on'}").is_ok());
    }

    #[test]
    fn over_memory_limit_only_scripts_that_delete_first_may_write() {
        let script = |source| &*Box::leak(Box::new(Script::new("test", source)));
        let put = Box::leak(Box::new(Script::new("put", "redis.call('SET', KEYS[1], ARGV[1]) return {'put'}")));
        let store = Embedded::new(BootClock::start()).unwrap().with_memory_limit(10_000);
        let large = "x".repeat(10_000);
        assert!(store.eval(put, &["large"], &[&large]).is_ok(), "the one that exceeds it");
        for source in [
            "redis.call('ZADD', KEYS[1], '1', 'x') return {}",
            "redis.call('HSET', KEYS[1], 'x', 'y') return {}",
            "redis.call('GET', KEYS[1]) redis.call('SET', KEYS[1], 'x') return {}",
        ] {
            let script = Box::leak(Box::new(Script::new(Box::leak(source.to_owned().into_boxed_str()), source)));
            let refused = store.eval(script, &["other"], &[]).unwrap_err().to_string();
            assert!(refused.contains("OOM"), "{refused}");
        }
        let goes_on =
            script("redis.call('PEXPIRE', KEYS[1], '60000') redis.call('SET', KEYS[1], 'small') return {'on'}");
        assert_eq!(store.eval(goes_on, &["large"], &[]).unwrap().status(), "on");
        assert!(store.bytes() < 1000, "{}", store.bytes());
        assert!(store.eval(put, &["other"], &["x"]).is_ok());
    }

    #[test]
    fn removed_values_use_no_memory() {
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
        assert_eq!(store.eval(script, &["set", "hash", "text"], &[]).unwrap().status(), "done");
        assert_eq!(store.bytes(), 0);
    }

    #[test]
    fn messages_beyond_the_backlog_are_dropped() {
        let embedded = Embedded::new(BootClock::start()).unwrap();
        let mut receiver = embedded.subscribe("news");
        let shout = Box::leak(Box::new(Script::new("shout", "return {redis.call('PUBLISH', KEYS[1], ARGV[1])}")));
        for n in 0..=Embedded::SUBSCRIBER_BACKLOG_MAX {
            embedded.eval(shout, &["news"], &[&n.to_string()]).unwrap();
        }
        let received: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        assert_eq!(received.len(), Embedded::SUBSCRIBER_BACKLOG_MAX);
        assert_eq!(received[0], "0");

        drop(receiver);
        assert_eq!(embedded.eval(shout, &["news"], &["x"]).unwrap().status(), "0");
    }
}
