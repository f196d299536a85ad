// Server-Sent Events: the feed for whoever has only HTTP. A client of GET /api/v1/events is a v1
// session of the Hub like any other, subscribed by its request; each message is an event, and its
// id the EventId that a client comes back with (Last-Event-ID).
//
// Runs on: the loop. It decides nothing about topics or state. Bounds: those of a WebSocket (queue,
// conflation, write timeout); kIgnoredBytesMax bytes of what a client sends after its request.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/http.h"
#include "common/result.h"
#include "edge/wire.h"

namespace sigmacast::edge {

inline constexpr std::string_view kEventsPath = "/api/v1/events";

/// With or without a slash at its end.
bool is_events_path(std::string_view path);

/// How long a client waits before it comes back, spread so that those who lost one edge do not come
/// to the next at the same moment; and where there is no room, which does not come by asking often.
inline constexpr Millis kStreamRetryMin{1'000};
inline constexpr Millis kStreamRetryMax{3'000};
inline constexpr Millis kFullRetryMin{5'000};
inline constexpr Millis kFullRetryMax{15'000};

/// For whom there is no stream now: one that says so and when to come back, and ends. EventSource
/// gives up for good at any status but 200 (HTML 9.2.3). It costs no session, place or buffer.
http::Response stream_of_goodbye(const Session::Close& why, Millis retry_min, Millis retry_max,
                                 Random& random);

/// What the request for a stream asks for.
struct EventsRequest {
    std::vector<std::string> types;  // At least one.
    std::string last_event_id;       // Empty: none.

    /// As a v1 client's message.
    [[nodiscard]] std::string subscribe() const;
};

/// Errors: kInvalid, a sentence for a person.
Result<EventsRequest> read_events_request(const http::Request& request);

class Client;

/// Takes the connection over; to be added to the registry, and then started.
std::shared_ptr<Client> make_event_stream(Wire::Impl& wire, http::Upgrade& upgrade, Grant grant,
                                          EventsRequest asked);

}  // namespace sigmacast::edge
