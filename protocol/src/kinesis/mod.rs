//! The wire of the Kinesis Data Streams API (2013-12-02): JSON 1.1 and CBOR 1.1 to and from [`value::Value`], what a
//! request must look like ([`model`], [`check`]), names, numbers and tokens in its form. Pure. What an operation does
//! is the store's business.

pub mod arn;
pub mod cbor;
pub mod check;
pub mod event;
pub mod iterator;
pub mod json;
pub mod model;
pub mod number;
pub mod value;

use crate::stream::{CallError, CallErrorCode};

/// Start of the `X-Amz-Target` header, before the operation.
pub const TARGET_PREFIX: &str = "Kinesis_20131202.";

/// Why a request was not done: the type and the text that clients of the API know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct ApiError {
    /// Name of the exception.
    pub kind: &'static str,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// One of these.
    #[must_use]
    pub fn new(kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { kind, message: message.into() }
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(&self) -> u16 {
        if self.kind.starts_with("InternalFailure") { 500 } else { 400 }
    }
}

impl From<ApiError> for CallError {
    fn from(error: ApiError) -> CallError {
        let code = match error.kind {
            "ResourceNotFoundException" => CallErrorCode::NotFound,
            "ResourceInUseException" => CallErrorCode::Exists,
            "AccessDeniedException" => CallErrorCode::Denied,
            "LimitExceededException" => CallErrorCode::Limit,
            "ProvisionedThroughputExceededException" => CallErrorCode::Busy,
            "InternalFailure" => CallErrorCode::Internal,
            _ => CallErrorCode::Invalid,
        };
        CallError { code, message: format!("{}: {}", error.kind, error.message) }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> ApiError {
        let kind = match error.code {
            CallErrorCode::NotFound => "ResourceNotFoundException",
            CallErrorCode::Exists => "ResourceInUseException",
            CallErrorCode::Invalid => "InvalidArgumentException",
            CallErrorCode::Denied => "AccessDeniedException",
            CallErrorCode::Limit => "LimitExceededException",
            CallErrorCode::Busy | CallErrorCode::Internal => "InternalFailure",
        };
        ApiError::new(kind, error.message)
    }
}
