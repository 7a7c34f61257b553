use super::{YES, args::LockNameArgs, error::CliError, print_message, server::ServerArgs};
use crate::exit::{self, Exit};

/// Print the address of the page with the past grants of a lock
///
/// The API of this version does not return the history; the account page shows it.
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    #[command(flatten)]
    lock: LockNameArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn history(args: &HistoryArgs) -> Result<Exit, CliError> {
    let server = args.server.server()?;
    let client = server.client()?;
    let namespace = match &args.lock.namespace {
        Some(namespace) => namespace.clone(),
        None => {
            let account = client.account().await.map_err(|error| server.cli_error(&error))?;
            account.default_namespace.unwrap_or_else(|| "public".to_owned())
        }
    };
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("namespace", &namespace)
        .append_pair("name", &args.lock.name)
        .finish();
    print_message("the API does not return the history yet; sign in and open this page:");
    exit::print(&format!("{}/account/locks/history?{query}\n", client.origin()))?;
    Ok(Exit::Code(YES))
}
