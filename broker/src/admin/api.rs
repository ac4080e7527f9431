//! The same for programs that embed the broker. Each of the changing functions returns once the change is on disk.

use std::sync::Arc;

use serde_json::Value;

use super::{AdminError, Change, Metadata, Secret};
use crate::Broker;
use crate::access::{Permissions, TopicPermissions, User};
use crate::definitions::{Definitions, Imported};
use crate::policy::{Kind, Policy};

/// All that administrators have set.
#[derive(Clone, Debug, Default)]
pub struct Administered {
    pub users: Vec<User>,
    pub vhosts: Vec<VHostOf>,
    pub permissions: Vec<PermissionsOf>,
    pub topic_permissions: Vec<TopicPermissionsOf>,
    pub policies: Vec<PolicyOf>,
}

#[derive(Clone, Debug)]
pub struct VHostOf {
    pub name: Box<str>,
    pub metadata: Metadata,
}

#[derive(Clone, Debug)]
pub struct PermissionsOf {
    pub user: Box<str>,
    pub vhost: Box<str>,
    pub permissions: Permissions,
}

#[derive(Clone, Debug)]
pub struct TopicPermissionsOf {
    pub user: Box<str>,
    pub vhost: Box<str>,
    pub permissions: TopicPermissions,
}

/// A policy with the virtual host it is in force in, and whose it is.
#[derive(Clone, Debug)]
pub struct PolicyOf {
    pub vhost: Box<str>,
    pub kind: Kind,
    pub policy: Arc<Policy>,
}

impl Broker {
    async fn change(&self, change: Change) -> Result<(), AdminError> {
        self.control.change(change)?.await.map_err(|_| AdminError::Ended)
    }

    /// Applies definitions: everything that can be applied is, and on disk; what cannot is reported.
    ///
    /// # Errors
    /// [`AdminError::Ended`].
    pub async fn import(&self, definitions: &Definitions) -> Result<Imported, AdminError> {
        let (imported, stored) = self.control.import(definitions);
        stored.await.map_err(|_| AdminError::Ended)?;
        Ok(imported)
    }

    /// Users, virtual hosts, permissions and policies as they now are.
    pub fn administered(&self) -> Administered {
        self.control.administered()
    }

    /// Sets a policy of a virtual host, in the place of one of that name. `policy` is an object as in RabbitMQ's
    /// definitions: `pattern`, `definition`, and optionally `apply-to` and `priority`.
    ///
    /// # Errors
    /// [`AdminError::Policy`] says all that is wrong with it.
    pub async fn set_policy(&self, vhost: &str, name: &str, policy: &Value) -> Result<(), AdminError> {
        self.put_policy(Kind::User, vhost, name, policy).await
    }

    /// As [`Broker::set_policy`], for an operator policy, which may have fewer keys.
    ///
    /// # Errors
    /// As there.
    pub async fn set_operator_policy(&self, vhost: &str, name: &str, policy: &Value) -> Result<(), AdminError> {
        self.put_policy(Kind::Operator, vhost, name, policy).await
    }

    async fn put_policy(&self, kind: Kind, vhost: &str, name: &str, policy: &Value) -> Result<(), AdminError> {
        let (vhost, name) = (vhost.to_owned(), name.to_owned());
        self.change(Change::SetPolicy { kind, vhost, name, policy: policy.clone() }).await
    }

    /// Removes a policy; what it was applied to goes back to its arguments, or to the next policy that matches.
    ///
    /// # Errors
    /// [`AdminError::NoSuchVHost`], [`AdminError::NoSuchPolicy`].
    pub async fn clear_policy(&self, vhost: &str, name: &str) -> Result<(), AdminError> {
        self.change(Change::ClearPolicy { kind: Kind::User, vhost: vhost.to_owned(), name: name.to_owned() }).await
    }

    /// As [`Broker::clear_policy`], for an operator policy.
    ///
    /// # Errors
    /// As there.
    pub async fn clear_operator_policy(&self, vhost: &str, name: &str) -> Result<(), AdminError> {
        self.change(Change::ClearPolicy { kind: Kind::Operator, vhost: vhost.to_owned(), name: name.to_owned() }).await
    }

    /// The policies and operator policies of all virtual hosts.
    pub fn policies(&self) -> Vec<PolicyOf> {
        self.administered().policies
    }

    /// Adds a virtual host with the predeclared exchanges, or describes an existing one anew.
    ///
    /// # Errors
    /// [`AdminError::Name`], [`AdminError::QueueType`].
    pub async fn set_vhost(&self, name: &str, metadata: Metadata) -> Result<(), AdminError> {
        self.change(Change::SetVHost { name: name.to_owned(), metadata }).await
    }

    /// Deletes a virtual host with everything in it; its connections are closed (320).
    ///
    /// # Errors
    /// [`AdminError::NoSuchVHost`].
    pub async fn delete_vhost(&self, name: &str) -> Result<(), AdminError> {
        self.change(Change::DeleteVHost { name: name.to_owned() }).await
    }

    /// Adds a user without any permission, or gives an existing one this password and these tags.
    ///
    /// # Errors
    /// [`AdminError::Name`], [`AdminError::EmptyPassword`].
    pub async fn set_user(&self, name: &str, secret: Secret, tags: &[&str]) -> Result<(), AdminError> {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        self.change(Change::SetUser { name: name.to_owned(), secret, tags }).await
    }

    /// Deletes a user with all permissions; the user's connections are closed (320).
    ///
    /// # Errors
    /// [`AdminError::NoSuchUser`].
    pub async fn delete_user(&self, name: &str) -> Result<(), AdminError> {
        self.change(Change::DeleteUser { name: name.to_owned() }).await
    }

    /// Lets a user open a virtual host, and do there what the permissions say.
    ///
    /// # Errors
    /// [`AdminError::NoSuchUser`], [`AdminError::NoSuchVHost`], [`AdminError::Expression`].
    pub async fn set_permissions(&self, user: &str, vhost: &str, permissions: Permissions) -> Result<(), AdminError> {
        let (user, vhost) = (user.to_owned(), vhost.to_owned());
        self.change(Change::SetPermissions { user, vhost, permissions }).await
    }

    /// Takes a user's permissions in a virtual host away; it can no longer be opened.
    ///
    /// # Errors
    /// [`AdminError::NoSuchUser`], [`AdminError::NoSuchVHost`].
    pub async fn clear_permissions(&self, user: &str, vhost: &str) -> Result<(), AdminError> {
        self.change(Change::ClearPermissions { user: user.to_owned(), vhost: vhost.to_owned() }).await
    }

    /// Limits the routing keys that a user may write to a topic exchange, and bind with.
    ///
    /// # Errors
    /// As [`Broker::set_permissions`].
    pub async fn set_topic_permissions(
        &self,
        user: &str,
        vhost: &str,
        permissions: TopicPermissions,
    ) -> Result<(), AdminError> {
        let (user, vhost) = (user.to_owned(), vhost.to_owned());
        self.change(Change::SetTopicPermissions { user, vhost, permissions }).await
    }

    /// Lifts these limits, for one exchange or for all.
    ///
    /// # Errors
    /// As [`Broker::clear_permissions`].
    pub async fn clear_topic_permissions(
        &self,
        user: &str,
        vhost: &str,
        exchange: Option<&str>,
    ) -> Result<(), AdminError> {
        let (user, vhost, exchange) = (user.to_owned(), vhost.to_owned(), exchange.map(str::to_owned));
        self.change(Change::ClearTopicPermissions { user, vhost, exchange }).await
    }
}
