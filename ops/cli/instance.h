// Which Sigmacast runs on this machine, and on which ports: what ops/run wrote down at its start,
// in DATA/supervisor. So that nobody has to tell `sigmacast` what `ops/run` was told.
//
//     const auto instance = instance_of(command.data, std::getenv("SIGMAVAULT_DATA_DIR"), program);
//
// Reads files of at most 64 KiB, never the current folder: a token must not go where some file that
// lies about names. Runs on: the main thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/tls.h"

namespace sigmacast::cli {

struct Instance {
    std::string folder;
    bool runs = false;  // As far as its run folder tells.
    std::uint16_t producer_admin = 0;
    std::uint16_t broker_admin = 0;
    std::string edge_host;
    std::string tls_certificate;       // Of the edges; empty: no TLS.
    std::vector<std::uint16_t> edges;  // Rising, with those that were added; never empty.
};

/// Errors: kNotFound where ops/run never started with this folder, kInvalid where its notes cannot
/// be understood.
Result<Instance> read_instance(const std::filesystem::path& folder);

/// `data` (of --data), or, where it is empty, the first that runs, else the first that has run, of:
/// `environment` (SIGMAVAULT_DATA_DIR, may be null), the data folder beside `program` or of the
/// project that it was built in, /var/lib/sigmacast. Null: none has. Errors: as above, for `data`.
Result<std::optional<Instance>> instance_of(const std::string& data, const char* environment,
                                            const std::filesystem::path& program);

/// The same for this process, its environment and its program file.
Result<std::optional<Instance>> instance_of(const std::string& data);

/// Whether its edges speak TLS. Then `trust` becomes their own certificate, unless it says
/// something else: no certificate names the address by which they are asked.
bool believe(const Instance& instance, tls::Trust& trust);

/// host:port of an edge, as one reaches it from here: of "any address" the loopback.
std::string edge_authority(const std::string& host, std::uint16_t port);

}  // namespace sigmacast::cli
