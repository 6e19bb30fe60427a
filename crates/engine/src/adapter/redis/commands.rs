//! Which commands methods may declare, and what is known of them.

/// What is known of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Changes nothing.
    Read,
    /// Changes data; making it twice is as making it once.
    Write,
    /// Changes data, and does or answers something else when it is made again.
    WriteAnew,
    /// Reaches beyond data, or holds the server up: only where the operator allows it. A
    /// command that is not known is one of these.
    Restricted,
    /// Belongs to the connection, or waits on it: it would take connections from other calls.
    Refused(&'static str),
}

const READ: &[&str] = &[
    "BITCOUNT",
    "BITFIELD_RO",
    "BITPOS",
    "DBSIZE",
    "DUMP",
    "ECHO",
    "EXISTS",
    "EXPIRETIME",
    "GEODIST",
    "GEOHASH",
    "GEOPOS",
    "GEORADIUSBYMEMBER_RO",
    "GEORADIUS_RO",
    "GEOSEARCH",
    "GET",
    "GETBIT",
    "GETRANGE",
    "HEXISTS",
    "HEXPIRETIME",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HPEXPIRETIME",
    "HPTTL",
    "HRANDFIELD",
    "HSCAN",
    "HSTRLEN",
    "HTTL",
    "HVALS",
    "JSON.ARRINDEX",
    "JSON.ARRLEN",
    "JSON.GET",
    "JSON.MGET",
    "JSON.OBJKEYS",
    "JSON.OBJLEN",
    "JSON.STRLEN",
    "JSON.TYPE",
    "LCS",
    "LINDEX",
    "LLEN",
    "LOLWUT",
    "LPOS",
    "LRANGE",
    "MGET",
    "OBJECT",
    "PEXPIRETIME",
    "PFCOUNT",
    "PING",
    "PTTL",
    "PUBSUB",
    "RANDOMKEY",
    "SCAN",
    "SCARD",
    "SDIFF",
    "SINTER",
    "SINTERCARD",
    "SISMEMBER",
    "SMEMBERS",
    "SMISMEMBER",
    "SORT_RO",
    "SRANDMEMBER",
    "SSCAN",
    "STRLEN",
    "SUBSTR",
    "SUNION",
    "TIME",
    "TOUCH",
    "TTL",
    "TYPE",
    "XINFO",
    "XLEN",
    "XPENDING",
    "XRANGE",
    "XREAD",
    "XREVRANGE",
    "ZCARD",
    "ZCOUNT",
    "ZDIFF",
    "ZINTER",
    "ZINTERCARD",
    "ZLEXCOUNT",
    "ZMSCORE",
    "ZRANDMEMBER",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZRANK",
    "ZREVRANGE",
    "ZREVRANGEBYLEX",
    "ZREVRANGEBYSCORE",
    "ZREVRANK",
    "ZSCAN",
    "ZSCORE",
    "ZUNION",
];

const WRITE: &[&str] = &[
    "BITOP",
    "COPY",
    "DEL",
    "EXPIRE",
    "EXPIREAT",
    "GEOADD",
    "GEOSEARCHSTORE",
    "GETEX",
    "HDEL",
    "HEXPIRE",
    "HEXPIREAT",
    "HGETEX",
    "HMSET",
    "HPERSIST",
    "HPEXPIRE",
    "HPEXPIREAT",
    "HSET",
    "HSETEX",
    "JSON.CLEAR",
    "JSON.DEL",
    "JSON.FORGET",
    "JSON.MERGE",
    "JSON.MSET",
    "JSON.SET",
    "LSET",
    "MSET",
    "PERSIST",
    "PEXPIRE",
    "PEXPIREAT",
    "PFADD",
    "PFMERGE",
    "PSETEX",
    "RESTORE",
    "SADD",
    "SDIFFSTORE",
    "SET",
    "SETBIT",
    "SETEX",
    "SETRANGE",
    "SINTERSTORE",
    "SMOVE",
    "SREM",
    "SUNIONSTORE",
    "UNLINK",
    "XACK",
    "XDEL",
    "XGROUP",
    "XSETID",
    "XTRIM",
    "ZADD",
    "ZDIFFSTORE",
    "ZINTERSTORE",
    "ZRANGESTORE",
    "ZREM",
    "ZREMRANGEBYLEX",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    "ZUNIONSTORE",
];

const WRITE_ANEW: &[&str] = &[
    "APPEND",
    "BITFIELD",
    "DECR",
    "DECRBY",
    "GEORADIUS",
    "GEORADIUSBYMEMBER",
    "GETDEL",
    "GETSET",
    "HGETDEL",
    "HINCRBY",
    "HINCRBYFLOAT",
    "HSETNX",
    "INCR",
    "INCRBY",
    "INCRBYFLOAT",
    "JSON.ARRAPPEND",
    "JSON.ARRINSERT",
    "JSON.ARRPOP",
    "JSON.ARRTRIM",
    "JSON.NUMINCRBY",
    "JSON.NUMMULTBY",
    "JSON.STRAPPEND",
    "JSON.TOGGLE",
    "LINSERT",
    "LMOVE",
    "LMPOP",
    "LPOP",
    "LPUSH",
    "LPUSHX",
    "LREM",
    "LTRIM",
    "MSETNX",
    "PUBLISH",
    "RENAME",
    "RENAMENX",
    "RPOP",
    "RPOPLPUSH",
    "RPUSH",
    "RPUSHX",
    "SETNX",
    "SORT",
    "SPOP",
    "SPUBLISH",
    "XADD",
    "XAUTOCLAIM",
    "XCLAIM",
    "XREADGROUP",
    "ZINCRBY",
    "ZMPOP",
    "ZPOPMAX",
    "ZPOPMIN",
];

const CONNECTION: &[&str] = &[
    "ASKING",
    "AUTH",
    "CLIENT",
    "DISCARD",
    "EXEC",
    "HELLO",
    "MULTI",
    "QUIT",
    "READONLY",
    "READWRITE",
    "RESET",
    "SELECT",
    "UNWATCH",
    "WATCH",
];

const BLOCKING: &[&str] =
    &["BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN", "WAIT", "WAITAOF"];

const STREAMING: &[&str] = &[
    "MONITOR",
    "PSUBSCRIBE",
    "PSYNC",
    "PUNSUBSCRIBE",
    "REPLCONF",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SUNSUBSCRIBE",
    "SYNC",
    "UNSUBSCRIBE",
];

/// What is known of a command, whose name is in upper case.
pub(super) fn class(name: &str) -> Class {
    let has = |list: &[&str]| list.contains(&name);
    match name {
        _ if has(READ) => Class::Read,
        _ if has(WRITE) => Class::Write,
        _ if has(WRITE_ANEW) => Class::WriteAnew,
        "MULTI" | "EXEC" => Class::Refused("transaction: true with a pipeline makes a transaction"),
        "SELECT" => Class::Refused("the database is the config's"),
        "AUTH" | "HELLO" => Class::Refused("the credential says who calls"),
        _ if has(CONNECTION) => Class::Refused("it changes the connection, which other calls use after this one"),
        _ if has(BLOCKING) => Class::Refused("it waits, and keeps the connection from other calls"),
        _ if has(STREAMING) => Class::Refused("its answers have no end"),
        _ => Class::Restricted,
    }
}

/// Whether these arguments of a command, its name first, have it wait.
pub(super) fn blocks(arguments: &[Vec<u8>]) -> bool {
    let is = |argument: &[u8], word: &str| argument.eq_ignore_ascii_case(word.as_bytes());
    let Some((name, options)) = arguments.split_first() else { return false };
    (is(name, "XREAD") || is(name, "XREADGROUP"))
        && options.iter().take_while(|option| !is(option, "STREAMS")).any(|option| is(option, "BLOCK"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_of_one_class() {
        let lists = [READ, WRITE, WRITE_ANEW, CONNECTION, BLOCKING, STREAMING];
        let mut all: Vec<&str> = lists.concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for (name, expected) in
            [("GET", Class::Read), ("SET", Class::Write), ("INCR", Class::WriteAnew), ("FLUSHALL", Class::Restricted)]
        {
            assert_eq!(class(name), expected, "{name}");
        }
        for name in ["EVAL", "KEYS", "CONFIG", "SCRIPT", "FCALL", "SHUTDOWN", "ACL", "MODULE", "MIGRATE", "NEW.COMMAND"]
        {
            assert_eq!(class(name), Class::Restricted, "{name}");
        }
        for name in ["SUBSCRIBE", "MONITOR", "BLPOP", "MULTI", "SELECT", "CLIENT", "AUTH"] {
            assert!(matches!(class(name), Class::Refused(_)), "{name}");
        }
    }

    #[test]
    fn a_read_that_waits_is_seen() {
        let arguments = |text: &str| -> Vec<Vec<u8>> { text.split(' ').map(|word| word.as_bytes().to_vec()).collect() };
        assert!(blocks(&arguments("xread COUNT 1 block 0 STREAMS s $")));
        assert!(!blocks(&arguments("XREAD STREAMS block 0")));
        assert!(!blocks(&arguments("SET block block")));
    }
}
