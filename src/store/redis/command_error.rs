use crate::store::StoreError;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CommandError {
    /// The command was not sent: the queue of pending commands is full.
    QueueFull,
    /// No reply arrived in time.
    TimedOut,
    /// The connection ended.
    ConnectionLost(String),
    /// The server does not accept these writes (any longer), on all of its connections.
    NotMaster(String),
    /// The server returned another error.
    Other(String),
}

impl CommandError {
    /// Parses an error reply: a code, followed by a text. Both are the server's own and contain no
    /// arguments.
    pub(super) fn from_reply(error: String) -> Self {
        match error.split(' ').next() {
            Some("READONLY" | "MASTERDOWN" | "LOADING" | "CLUSTERDOWN" | "MOVED" | "ASK" | "TRYAGAIN") => {
                Self::NotMaster(error)
            }
            _ => Self::Other(error),
        }
    }
}

impl From<lockable_resp::Error> for CommandError {
    fn from(error: lockable_resp::Error) -> Self {
        match error {
            lockable_resp::Error::QueueFull => Self::QueueFull,
            lockable_resp::Error::TimedOut => Self::TimedOut,
            lockable_resp::Error::ConnectionLost(reason) => Self::ConnectionLost(reason),
        }
    }
}

impl From<CommandError> for StoreError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::QueueFull => Self::NotSent("too many commands to Redis are pending".into()),
            CommandError::TimedOut => Self::NoAnswer("Redis did not reply in time".into()),
            // The command may have been sent before the connection ended.
            CommandError::ConnectionLost(reason) => Self::NoAnswer(reason),
            CommandError::NotMaster(reason) | CommandError::Other(reason) => Self::Refused(reason),
        }
    }
}
