// The conversions on the host are those of csrc/core/dtype.h.
#pragma once
