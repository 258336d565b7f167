//! A receiver, by its description and its name.

use std::any::TypeId;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::task::info::Info;
use crate::task::intern::interned;

/// A receiver, for the code that runs it and for reports. A program may connect any number of receivers at run time from one
/// source location: they share the [`Info`] of that location, and only the name belongs to each of them.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) info: &'static Info,
    /// The name of a connected receiver; `None` means the name in `info`.
    uid: Option<Arc<str>>,
}

/// What is disabled: the function of linked receivers, or one connected receiver, by its source location and its name.
pub(crate) type DisabledKey = (TypeId, Option<(usize, Arc<str>)>);

impl Identity {
    pub(crate) const fn linked(info: &'static Info) -> Self {
        Self { info, uid: None }
    }

    pub(crate) fn connected(info: &'static Info, uid: Arc<str>) -> Self {
        Self { info, uid: Some(uid) }
    }

    /// All connected receivers share a type.
    pub(crate) fn disabled_key(&self) -> DisabledKey {
        let location = std::ptr::from_ref(self.info) as usize;
        (self.info.receiver, self.uid.clone().map(|uid| (location, uid)))
    }

    pub(crate) fn name(&self) -> &str {
        self.uid.as_deref().unwrap_or(self.info.name)
    }

    /// The name as a `&'static str`. Each new name is leaked, so this is only for errors and for reports that the program
    /// requests.
    pub(crate) fn static_name(&self) -> &'static str {
        self.uid.as_deref().map_or(self.info.name, interned)
    }
}

impl Deref for Identity {
    type Target = Info;

    fn deref(&self) -> &Info {
        self.info
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}
