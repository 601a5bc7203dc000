//! Every bound of the edge, with its reason and what happens when it is reached.
use std::time::Duration;

/// HTTP/2 streams one connection may have open. A load generator puts thousands of calls on one connection, and a client
/// may hold a stream per watch; etcd's own default is no bound. More are refused with REFUSED_STREAM, which clients retry.
pub const CONCURRENT_STREAMS_MAX: u32 = 65_536;

/// Bytes of request bodies one stream may have in flight: a whole request of the default limit without a second round trip.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Bytes of request bodies one connection may have in flight, over all its streams. Full: the client waits for the window.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// HTTP/2 frames we accept. The protocol's smallest: bigger ones only help bulk uploads, which this API has none of.
pub const FRAME_BYTES_MAX: u32 = 16 << 10;

/// Decoded size of one request's headers. gRPC metadata is a token and a few flags. Larger: 431 and the call ends.
pub const HEADER_LIST_BYTES_MAX: u32 = 64 << 10;

/// Streams a client may reset before they were looked at (rapid reset). All that arrived is accepted at each wake-up, so only
/// an attack reaches this. Beyond it the connection is closed with ENHANCE_YOUR_CALM.
pub const PENDING_RESETS_MAX: usize = 256;

/// Response bytes of one stream buffered ahead of the client's window. A streaming handler waits when it is full.
pub const STREAM_SEND_BUFFER_BYTES: usize = 256 << 10;

/// Bytes that several messages share are sent as DATA frames of their own from this size on; smaller ones are copied into
/// each message, which costs less than a frame of their own.
pub const SHARED_BYTES_MIN: usize = 4 << 10;

/// Response bytes of one connection that its client has not read. A few large ranges at once are usual (kube-apiserver pages
/// by 500 to 10,000 rows); beyond this the connection's next requests wait until it reads.
pub const UNREAD_RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Requests taken from one connection before their answers are written. More would delay the first answer; fewer would cost
/// a write per answer.
pub const REQUESTS_PER_TURN_MAX: usize = 512;

/// Connections of one core. A kube-apiserver holds some 300; beyond this new ones are closed at once, with a log line.
pub const CONNECTIONS_PER_CORE_MAX: usize = 16_384;

/// Accepted connections on their way to a core. Full: accepting waits, the kernel's backlog holds the rest.
pub const HANDOVER_QUEUE_CONNECTIONS: usize = 256;

/// The kernel's queue of connections not yet accepted; a whole cluster reconnects at once after a restart.
pub const LISTEN_BACKLOG: i32 = 1_024;

/// From accept to the end of the TLS handshake and of the first bytes. A connection that says nothing is closed.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// Body of one HTTP/1.1 (or plain HTTP/2) request; the endpoints served take none. Larger: 413.
pub const HTTP_BODY_BYTES_MAX: usize = 64 << 10;

/// Calls still running when the server stops get this long to finish.
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// Largest gRPC message we send (grpc-go's bound, and the largest its clients accept by their own choice).
pub const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;

/// An idle connection whose peer vanished without a FIN is found by TCP keepalive.
pub const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
