//! What a request was granted.

use std::sync::Arc;

use super::token::{Scope, Token};
use crate::http::Problem;

/// A right to do something, and where.
#[derive(Clone, Debug)]
pub struct Grant {
    scope: Scope,
    reach: Reach,
}

#[derive(Clone, Debug)]
enum Reach {
    /// Everywhere: this machine without tokens, or `auth.mode = "open"`.
    Everything,
    /// The namespaces of `auth.public_read`.
    Public(Arc<[String]>),
    /// Where the token reaches.
    Token(Arc<Token>),
}

impl Grant {
    /// Everything, everywhere.
    pub fn everything() -> Grant {
        Grant { scope: Scope::Admin, reach: Reach::Everything }
    }

    pub(super) fn public(namespaces: &Arc<[String]>) -> Grant {
        Grant { scope: Scope::Read, reach: Reach::Public(namespaces.clone()) }
    }

    pub(super) fn token(token: Arc<Token>) -> Grant {
        Grant { scope: token.scope, reach: Reach::Token(token) }
    }

    /// Whether the grant has a scope, wherever it reaches.
    pub fn allows(&self, scope: Scope) -> bool {
        self.scope >= scope
    }

    /// Whether it reaches a namespace.
    pub fn reaches(&self, namespace: &str) -> bool {
        self.namespaces().is_none_or(|names| names.iter().any(|one| one == namespace))
    }

    /// The namespaces it reaches; `None` is all.
    pub fn namespaces(&self) -> Option<&[String]> {
        match &self.reach {
            Reach::Everything => None,
            Reach::Public(namespaces) => Some(namespaces),
            Reach::Token(token) => Some(token.namespaces.as_slice()).filter(|names| !names.is_empty()),
        }
    }

    /// Whether there are namespaces it does not reach.
    pub fn is_restricted(&self) -> bool {
        self.namespaces().is_some()
    }

    /// Whether it reaches the whole store, as what reads or writes all of it must. `Err` is a 403.
    pub fn require_whole(&self) -> Result<(), Problem> {
        if !self.is_restricted() {
            return Ok(());
        }
        let message = "this token reaches only some namespaces, and this needs one that reaches all";
        Err(Problem::new(403, "FORBIDDEN", message))
    }

    /// The token it came from, for rate limits and logs.
    pub fn token_id(&self) -> Option<&str> {
        match &self.reach {
            Reach::Token(token) => Some(&token.id),
            Reach::Everything | Reach::Public(_) => None,
        }
    }

    /// Whether it has a scope in a namespace (`None`: anywhere). `Err` is a 403, or a 401 where a token would help.
    pub fn require(&self, needed: Scope, namespace: Option<&str>) -> Result<(), Problem> {
        if self.allows(needed) && namespace.is_none_or(|namespace| self.reaches(namespace)) {
            return Ok(());
        }
        if let Reach::Public(_) = self.reach {
            let message = "without a token only public namespaces may be read: `Authorization: Bearer ldr_…`";
            return Err(super::unauthorized(message));
        }
        Err(Problem::new(
            403,
            "FORBIDDEN",
            match namespace.filter(|namespace| !self.reaches(namespace)) {
                Some(namespace) => format!("this token does not reach the namespace `{namespace}`"),
                None => format!("this token has the scope `{}`, and this needs `{needed}`", self.scope),
            },
        ))
    }
}
