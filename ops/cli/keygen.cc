// `sigmacast keygen`: a key pair for one program. Prints the public key, and nothing else, on
// standard output, so that a script can take it; the secret key is in no output.
#include <filesystem>
#include <system_error>

#include "common/curve.h"
#include "ops/cli/commands.h"
#include "ops/cli/output.h"

namespace sigmacast::cli {
namespace {

constexpr const char* kFile = "sigmacast.key";  // In a folder that --out names.

int show(const std::string& path) {
    const Result<KeyPair> pair = read_key_pair(path);
    if (!pair) {
        complain(pair.error().message);
        return kExitFailed;
    }
    return print(pair->public_key + "\n") ? kExitOk : kExitFailed;
}

}  // namespace

int run_keygen(const KeygenCommand& command) {
    if (!command.show.empty()) {
        return show(command.show);
    }
    std::error_code ignored;  // What is wrong with the path shows when the file is made.
    std::filesystem::path path = command.out;
    if (std::filesystem::is_directory(path, ignored) || !path.has_filename()) {
        path /= kFile;
    }
    const Result<KeyPair> pair = write_key_pair(path.string());
    if (!pair) {
        complain(pair.error().message);
        return kExitFailed;
    }
    remark("The secret key is in " + path.string() +
           ": it stays on this machine. The public key, " + "below and in " + path.string() +
           ".pub, is for the others.");
    return print(pair->public_key + "\n") ? kExitOk : kExitFailed;
}

}  // namespace sigmacast::cli
