# shellcheck shell=sh disable=SC2154 # common.sh and the configuration set them
# The network while volumes are opened: up for the providers that ask somebody, gone before the real system starts.
#
# NETWORK in /etc/initramfs/config: none, dhcp, or ADDRESS/PREFIX[,GATEWAY] (IPv4 or IPv6, no name server).
#
# All of it is the host's: cable, address, route, name server. Nothing that arrives is believed because of where it
# comes from; a provider has to authenticate whom it talks to. Without a network the boot goes on, because another
# provider may need none: network_up says why and is false.

NETWORK_CLASS=/sys/class/net
RESOLVER=/etc/resolv.conf
# Linux include/uapi/linux/if_arp.h.
ARPHRD_ETHER=1

network_interface=

# Brings up the first Ethernet interface that has a carrier, within DEVICE_TIMEOUT seconds for everything; a second
# call finds it up. Sets $network_interface.
network_up() {
    if [ "$NETWORK" = none ] || [ -n "$network_interface" ]; then
        return 0
    fi
    read_clock
    network_deadline=$((now + DEVICE_TIMEOUT * 1000))
    until find_carrier; do
        read_clock
        if [ "$now" -ge "$network_deadline" ]; then
            warn "no network: no Ethernet interface has a carrier after $DEVICE_TIMEOUT s, seen:${interfaces:- none};" \
                "give the machine a network card that the recipe has a module for"
            flush_interfaces
            return 1
        fi
        sleep 0.1
    done
    case $NETWORK in
        dhcp) ask_for_address ;;
        *) set_address "${NETWORK%%,*}" "$NETWORK" ;;
    esac || {
        flush_interfaces
        return 1
    }
    network_interface=$interface
    log "network: $interface is up, $NETWORK"
}

# Takes everything back: the real system finds its interfaces as if nobody had touched them.
network_down() {
    [ -n "$network_interface" ] || return 0
    flush_interfaces
    network_interface=
}

# Sets $interface to the first that has a carrier, and $interfaces to all. A carrier shows once an interface is up.
find_carrier() {
    interfaces=
    for entry in "$NETWORK_CLASS"/*; do
        is_ethernet "$entry" || continue
        interface=${entry##*/}
        interfaces="$interfaces $interface"
        # An interface that is down has a carrier that cannot be read.
        if ! read -r carrier 2>/dev/null <"$entry/carrier"; then
            ip link set "$interface" up 2>/dev/null
            continue
        fi
        [ "$carrier" != 1 ] || return 0
    done
    return 1
}

is_ethernet() {
    read -r type 2>/dev/null <"$1/type" && [ "$type" = $ARPHRD_ETHER ]
}

# set_address ADDRESS/PREFIX NETWORK: as the recipe says.
set_address() {
    family=-4
    case $1 in
        *:*)
            family=-6
            # Nobody else is asked whether the address is free, which would take a second before it can be used.
            accept_dad 0 "$interface"
            ;;
    esac
    if ! problem=$(ip $family addr add "$1" dev "$interface" 2>&1); then
        warn "no network: $interface does not take the address $1: $problem; correct the recipe's network"
        return 1
    fi
    case $2 in
        *,*) ;;
        *) return 0 ;;
    esac
    if ! problem=$(ip $family route add default via "${2#*,}" dev "$interface" 2>&1); then
        warn "no network: no route by ${2#*,}: $problem; give a gateway in the network of the address"
        return 1
    fi
}

# accept_dad 0|1 INTERFACE: whether an IPv6 address waits for duplicates to be detected (Linux
# Documentation/networking/ip-sysctl.rst); there is no such file without IPv6.
accept_dad() {
    if [ -e "/proc/sys/net/ipv6/conf/$2/accept_dad" ]; then
        echo "$1" >"/proc/sys/net/ipv6/conf/$2/accept_dad"
    fi
}

# One lease is enough: it outlives the boot. The script of the same name sets what it says.
ask_for_address() {
    read_clock
    left=$(((network_deadline - now + 999) / 1000))
    [ "$left" -ge 1 ] || left=1
    # -n and -t end it when nobody answers, timeout when somebody answers without end.
    if ! timeout -s KILL "$((left + 1))" udhcpc -f -n -q -t "$left" -T 1 -O mtu -i "$interface" \
        -s /usr/lib/goldsmith/udhcpc >/run/udhcpc.log 2>&1 </dev/null; then
        warn "no network: no DHCP server gives $interface an address: $(tail -n 1 /run/udhcpc.log | tr -cd ' -~');" \
            "start one, or write an address into the recipe's network"
        rm -f /run/udhcpc.log
        return 1
    fi
    rm -f /run/udhcpc.log
}

flush_interfaces() {
    for entry in "$NETWORK_CLASS"/*; do
        is_ethernet "$entry" || continue
        ip addr flush dev "${entry##*/}" 2>/dev/null
        ip link set "${entry##*/}" down 2>/dev/null
        accept_dad 1 "${entry##*/}"
    done
    rm -f "$RESOLVER"
}
