use axum::response::Redirect;

use super::session::Member;

/// `GET /account`: where the documents send everybody.
pub(super) async fn account(_member: Member) -> Redirect {
    Redirect::to("/account/locks")
}
