/* linear.h: what linear.c (who computes what) and linear_tmpl.h (how, per instruction set) say to each other. */
#ifndef KVQ_CPU_LINEAR_H
#define KVQ_CPU_LINEAR_H

#include "stream.h"

#endif
