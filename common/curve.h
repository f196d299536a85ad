// CURVE between programs on different hosts: key files, and what a program's bus (bus.h) needs of
// [curve]. Each program has a key pair of its own. The broker lists the public keys that it lets
// in, with what each may do; the others know the broker's public key.
//
// A key file is text: a comment that says which key it is, and the key in Z85 (40 characters). The
// secret file is for its owner alone, or it is not read. What is secret is in no error message.
//
//     Result<bus::Curve> curve = read_curve(settings, CurveRole::kEdge);   // Plain: empty.
//
// Reads and writes files; at start alone. Thread safe (no state of its own).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "common/settings.h"

namespace sigmacast {

namespace bus {

/// What a client of the broker may do.
enum Right : unsigned { kPublish = 1, kRead = 2 };

struct CurveClient {
    std::string name;
    std::vector<std::string> public_keys;  // More than one while a key is being replaced.
    unsigned rights = 0;
};

/// Of a node. Without a key of its own its sockets are plain.
struct Curve {
    std::string public_key = {};
    std::string secret_key = {};
    std::string broker_key = {};            // Of connecting sockets: whom they expect.
    std::vector<CurveClient> clients = {};  // Of binding sockets: whom they let in.
};

}  // namespace bus

struct KeyPair {
    std::string public_key;  // Z85.
    std::string secret_key;
};

/// Whether the text can be a key, public or secret: they look the same.
bool is_key(std::string_view text);

/// The public key that belongs to a secret one. Errors: kInvalid.
Result<std::string> public_key_of(const std::string& secret_key);

/// Makes a key pair: the secret key in `path`, for its owner alone, the public one in `path`.pub.
/// Errors: kConflict where one of them is there already (nothing is overwritten), kUnavailable.
Result<KeyPair> write_key_pair(const std::string& path);

/// Reads the secret key's file. Errors: kNotFound, kUnavailable; kInvalid (others may read it, or
/// there is no secret key in it).
Result<KeyPair> read_key_pair(const std::string& path);

enum class CurveRole { kBroker, kProducer, kEdge, kPublish };

/// Nothing where [curve] is not used. Errors, naming the setting and what to do: kInvalid (what
/// this program needs is not all there), and those of read_key_pair.
Result<bus::Curve> read_curve(const Settings& settings, CurveRole role);

}  // namespace sigmacast
