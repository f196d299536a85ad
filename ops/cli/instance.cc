#include "ops/cli/instance.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <system_error>

namespace sigmacast::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kNotesBytesMax = 64u << 10;
constexpr std::size_t kEdgesMax = 1'000;
constexpr const char* kSystemData = "/var/lib/sigmacast";  // Of ops/run as root.

std::map<std::string, std::string> read_notes(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    std::string text(kNotesBytesMax, '\0');
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, in.gcount())));
    std::map<std::string, std::string> notes;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (const auto equals = line.find('='); equals != std::string::npos) {
            notes.emplace(line.substr(0, equals), line.substr(equals + 1));  // The first counts.
        }
    }
    return notes;
}

std::uint16_t port_of(std::string_view text) {
    std::uint16_t port = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), port);
    return failed == std::errc{} && end == text.data() + text.size() ? port : 0;
}

/// One program file an edge: edges/edge-PORT.conf.
std::vector<std::uint16_t> ports_of_edges(const fs::path& folder) {
    std::vector<std::uint16_t> ports;
    std::error_code failed;
    for (fs::directory_iterator it(folder, failed), end; !failed && it != end;
         it.increment(failed)) {
        const std::string name = it->path().stem().string();
        const std::uint16_t port = name.starts_with("edge-") ? port_of(name.substr(5)) : 0;
        if (port != 0 && it->path().extension() == ".conf" && ports.size() < kEdgesMax) {
            ports.push_back(port);
        }
    }
    std::sort(ports.begin(), ports.end());
    return ports;
}

}  // namespace

Result<Instance> read_instance(const fs::path& folder) {
    const fs::path file = folder / "supervisor" / "instance";
    std::error_code failed;
    if (!fs::is_regular_file(file, failed)) {
        return Error{Errc::kNotFound, "ops/run has not started a Sigmacast with the data folder " +
                                          folder.string() + " (" + file.string() +
                                          (failed ? ": " + failed.message() : " is missing") + ")"};
    }
    auto notes = read_notes(file);
    Instance instance{.folder = folder.string(),
                      .runs = fs::is_symlink(folder / "run", failed),
                      .producer_admin = port_of(notes["producer_admin"]),
                      .broker_admin = port_of(notes["broker_admin"]),
                      .edge_host = notes["edge_host"],
                      .tls_certificate = notes["tls_certificate"],
                      .edges = ports_of_edges(folder / "supervisor" / "edges")};
    if (instance.edges.empty()) {
        instance.edges.push_back(port_of(notes["edge_port"]));
    }
    if (instance.producer_admin == 0 || instance.broker_admin == 0 || instance.edges.front() == 0) {
        return Error{Errc::kInvalid,
                     file.string() +
                         " cannot be read or does not name the ports; --config FILE "
                         "brings them from a configuration"};
    }
    return instance;
}

Result<std::optional<Instance>> instance_of(const std::string& data, const char* environment,
                                            const fs::path& program) {
    if (!data.empty()) {
        std::error_code failed;
        const fs::path folder = fs::absolute(data, failed).lexically_normal();
        auto instance = read_instance(folder);
        if (!instance) {
            return instance.error().within("--data");
        }
        return std::optional<Instance>(std::move(*instance));
    }
    std::vector<fs::path> folders;
    if (environment && *environment) {
        folders.emplace_back(environment);
    }
    const fs::path above = program.parent_path().parent_path();     // Of bin/.
    folders.push_back(above);                                       // DATA/bin/sigmacast
    folders.push_back(above.parent_path().parent_path() / "data");  // build/PRESET/bin/sigmacast
    folders.emplace_back(kSystemData);
    std::optional<Instance> first;
    for (const fs::path& folder : folders) {
        auto instance = read_instance(folder);
        if (instance && instance->runs) {
            return std::optional<Instance>(std::move(*instance));
        }
        if (instance && !first) {
            first = std::move(*instance);
        }
    }
    return first;
}

Result<std::optional<Instance>> instance_of(const std::string& data) {
    std::error_code failed;
    return instance_of(data, std::getenv("SIGMAVAULT_DATA_DIR"),
                       fs::read_symlink("/proc/self/exe", failed));
}

bool believe(const Instance& instance, tls::Trust& trust) {
    if (trust.ca_file.empty() && trust.pin_file.empty() && !trust.insecure) {
        trust.pin_file = instance.tls_certificate;
    }
    return !instance.tls_certificate.empty();
}

std::string edge_authority(const std::string& host, std::uint16_t port) {
    const bool any = host == "0.0.0.0" || host == "::" || host.empty();
    const std::string shown = any ? "127.0.0.1" : host;
    const bool v6 = shown.find(':') != std::string::npos && !shown.starts_with('[');
    return (v6 ? "[" + shown + "]" : shown) + ":" + std::to_string(port);
}

}  // namespace sigmacast::cli
