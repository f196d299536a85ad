// What http::Server hands over when a client asks for a WebSocket. Includes Asio and Beast: for
// edge/wire alone.
#pragma once

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>

#include "common/http.h"
#include "common/transport.h"

namespace sigmacast::http {

struct Upgrade {
    Transport transport;                 // To be moved from when taken over.
    boost::beast::flat_buffer buffered;  // Bytes read past the request.
    boost::beast::http::request<boost::beast::http::string_body> message;
    Request request;  // The same, as a handler sees it.
};

}  // namespace sigmacast::http
