#include "common/settings.h"

namespace sigmacast {

Settings default_settings() { return {}; }

}  // namespace sigmacast
