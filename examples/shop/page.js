'use strict'

// What was asked for and answered with success is kept here; what of it is still there, the shop tells.

const BURST = 20, VISITS = 10, RACE = 4
const byId = id => document.getElementById(id)
const shops = { guarded: newShop(), unguarded: newShop() }
let mode = 'guarded'
let stream = null

function newShop() {
  return {
    open: false, next: 1,
    products: [], // {id, state: 'open' | 'answered' | 'refused'}
    cart: [], visitsAnswered: 0, visits: 0,
    messagesAnswered: [], messages: [],
    user: null, loggedOut: false,
    requests: [], burst: [], lock: null, longestQueue: 0,
  }
}

// --- asking

async function call(shop, method, path) {
  const entry = { what: `${method} ${path}`, node: '', fence: '', failed: '' }
  shop.requests.unshift(entry)
  let receipt = null
  try {
    const response = await fetch(`${shop === shops.guarded ? 'guarded' : 'unguarded'}/${path}`, { method })
    if (response.ok) receipt = await response.json()
    else entry.failed = String(response.status)
  } catch {
    entry.failed = 'no answer'
  }
  if (receipt) {
    Object.assign(entry, { node: receipt.node, fence: receipt.fence || '' })
    if (receipt.message) shop.messagesAnswered.push(receipt.message)
  }
  draw()
  return receipt
}

async function change(shop, path, product) {
  const receipt = await call(shop, 'POST', path)
  if (receipt) shop.burst.push({ ...receipt, product })
  return receipt
}

async function addProducts(shop, count) {
  const wanted = Array.from({ length: count }, () => ({ id: shop.next++, state: 'open' }))
  shop.products.push(...wanted)
  await Promise.all(wanted.map(async product => {
    const receipt = await change(shop, `cart/${product.id}`, product.id)
    product.state = receipt ? 'answered' : 'refused'
  }))
}

async function visit(shop, count) {
  const answers = await Promise.all(Array.from({ length: count }, () => change(shop, 'visit')))
  shop.visitsAnswered += answers.filter(Boolean).length
}

async function logIn(shop) {
  if (await change(shop, 'login?user=Ada')) shop.loggedOut = false
}

async function logOut(shop) {
  if (await change(shop, 'logout')) shop.loggedOut = true
}

async function logOutWhileAdding(shop) {
  await Promise.all([addProducts(shop, RACE), logOut(shop)])
}

async function look(shop) {
  const taken = await call(shop, 'POST', 'messages')
  if (taken) shop.messages.push(...taken.messages)
  const seen = await call(shop, 'GET', 'session')
  if (!seen) return
  shop.cart = seen.cart
  shop.visits = seen.visits
  shop.user = seen.user
}

// --- acting: one button at a time; what one press sends, goes out at once

async function act(what) {
  const shop = shops[mode]
  busy(true)
  shop.burst = []
  draw()
  try {
    await what(shop)
    await look(shop)
  } finally {
    busy(false)
    draw()
  }
}

async function enter(chosen) {
  mode = document.body.dataset.mode = chosen
  const shop = shops[mode]
  if (!shop.open) {
    shop.open = true
    await act(async () => {
      await look(shop)
      const earlier = shop.cart.map(item => item.product) // before the page was loaded again
      shop.products = earlier.map(id => ({ id, state: 'answered' }))
      shop.next = Math.max(0, ...earlier) + 1
      shop.visitsAnswered = shop.visits
      shop.messagesAnswered = [...shop.messages]
      await visit(shop, 1) // alone: the requests after it have its session
    })
  }
  if (!stream) watch(shops.guarded)
  draw()
}

function watch(shop) {
  stream = new EventSource('guarded/live')
  stream.onmessage = event => {
    shop.lock = JSON.parse(event.data)
    shop.longestQueue = Math.max(shop.longestQueue, shop.lock.queue.length)
    if (shop === shops[mode]) draw()
  }
}

function busy(yes) {
  document.body.dataset.busy = yes
  for (const button of document.querySelectorAll('button, input')) button.disabled = yes
}

// --- drawing

let drawing = false

function draw() {
  document.body.dataset.drawn = 'false' // for who waits until all was answered and drawn
  if (drawing) return
  drawing = true
  requestAnimationFrame(() => {
    drawing = false
    const shop = shops[mode]
    drawScores(shop)
    drawCart(shop)
    drawLock(shop)
    drawTimeline(shop)
    drawMessages(shop)
    drawRequests(shop)
    document.body.dataset.drawn = document.body.dataset.busy === 'false'
  })
}

function element(name, text = '', attributes = {}) {
  const made = document.createElement(name)
  made.textContent = text
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  return made
}

function score(id, there, asked, word) {
  const article = byId(id), lost = asked - there
  article.classList.toggle('loss', lost > 0)
  article.querySelector('p').replaceChildren(element('span', there), element('small', ` of ${asked}`))
  article.querySelector('em').textContent = lost > 0 ? `${lost} ${word}` : asked ? 'none lost' : ''
}

const settled = () => document.body.dataset.busy === 'false'
const inCart = shop => new Set(shop.cart.map(item => item.product))
const answered = shop => shop.products.filter(product => product.state === 'answered')

function drawScores(shop) {
  if (settled()) {
    const there = inCart(shop)
    const asked = answered(shop)
    score('score-cart', asked.filter(product => there.has(product.id)).length, asked.length, 'lost')
    score('score-messages', shop.messagesAnswered.length - lostMessages(shop).length, shop.messagesAnswered.length, 'lost')
    score('score-visits', shop.visits, shop.visitsAnswered, 'not counted')
  }
  const undone = shop.loggedOut && shop.user
  const article = byId('score-user')
  article.classList.toggle('loss', Boolean(undone))
  article.querySelector('p').textContent = shop.user || 'nobody'
  article.querySelector('em').textContent = undone ? 'the logout was undone' : shop.loggedOut ? 'logged out' : ''
}

function drawCart(shop) {
  const prices = new Map(shop.cart.map(item => [item.product, item.price]))
  byId('cart').replaceChildren(...shop.products.map(product => {
    const price = prices.get(product.id)
    const state = product.state !== 'answered' ? product.state : price !== undefined ? 'kept' : settled() ? 'lost' : 'open'
    const tile = element('li', product.id, { class: state, 'data-product': product.id })
    tile.append(element('small', price === undefined ? (state === 'lost' ? 'lost' : '…') : money(price)))
    return tile
  }))
  byId('total').textContent = money(shop.cart.reduce((sum, item) => sum + item.price, 0))
}

const money = cents => (cents / 100).toFixed(2)
const grouped = digits => digits.replace(/\B(?=(\d{3})+$)/g, '\u202f')

function drawLock(shop) {
  const lock = shop.lock
  if (!lock) return
  const holder = lock.holder ? nodeAndWhat(lock.holder) : [document.createTextNode('nobody')]
  byId('holder').replaceChildren(...holder)
  const chips = lock.queue.map(label => nodeAndWhat(label)[0])
  byId('queue').replaceChildren(...chips.flatMap(chip => [chip, ' ']),
    element('small', `${lock.queue.length ? '' : 'empty; '}longest seen: ${shop.longestQueue}`))
  byId('fence').replaceChildren(element('span', grouped(lock.fence)), element('small', '  only grows'))
  const saved = shop.requests.filter(request => request.fence && request.fence !== lock.fence).sort((one, other) => (one.fence < other.fence ? 1 : -1))
  byId('grants').replaceChildren(...saved.slice(0, 4).map(grant))
  byId('record').replaceChildren(element('span', `version ${lock.version}`), element('small', `; its id is shown nowhere, in Redis only ${lock.name.slice(0, 6)}…`))
}

function grant(request) {
  const made = element('span', '', { class: 'grant', title: `${request.what} under fence ${request.fence}` })
  made.append(element('span', request.node, { class: 'node', 'data-node': request.node }), ` ${shortFence(request)}`)
  return made
}

const shortFence = request => request.fence && `…${grouped(request.fence.slice(-6))}`

function nodeAndWhat(label) {
  const [, node, what] = /^(?:node[_ ])?(\S+) ?(.*)$/.exec(label) ?? ["", label, ""]
  return [element('span', node, { class: 'node', 'data-node': node }), document.createTextNode(` ${what}`)]
}

function drawTimeline(shop) {
  const bars = [...shop.burst].sort((one, other) => one.loaded - other.loaded)
  const from = Math.min(...bars.map(bar => bar.loaded)), to = Math.max(...bars.map(bar => bar.saved))
  const there = inCart(shop), height = 100 / Math.max(bars.length, 5)
  byId('timeline').replaceChildren(...bars.map((bar, place) => {
    const lost = settled() && bar.product !== undefined && !there.has(bar.product)
    const made = element('i', '', { 'data-node': bar.node, class: lost ? 'lost' : '' })
    const width = Math.max(to - from, 0.001)
    Object.assign(made.style, {
      left: `${(bar.loaded - from) / width * 100}%`, width: `${(bar.saved - bar.loaded) / width * 100}%`,
      top: `${place * height}%`, height: `calc(${height}% - 2px)`,
    })
    return made
  }))
  byId('span').textContent = bars.length ? `${bars.length} request${bars.length > 1 ? 's' : ''} in ${Math.round((to - from) * 1000)} ms` : ''
}

function lostMessages(shop) {
  const left = [...shop.messages]
  return shop.messagesAnswered.filter(message => {
    const place = left.indexOf(message)
    if (place >= 0) left.splice(place, 1)
    return place < 0
  })
}

function drawMessages(shop) {
  const lost = settled() ? lostMessages(shop) : []
  byId('messages').replaceChildren(
    ...lost.map(message => element('li', message, { class: 'lost' })),
    ...shop.messages.map(message => element('li', message)).reverse())
}

function drawRequests(shop) {
  byId('requests').replaceChildren(...shop.requests.slice(0, 60).map(request => {
    const line = element('li')
    line.append(element('span', request.node || '·', request.node ? { class: 'node', 'data-node': request.node } : {}),
      element('span', request.what, { class: 'what' }),
      request.failed ? element('span', request.failed, { class: 'failed' })
        : element('span', shortFence(request), { class: 'fence', title: request.fence }))
    return line
  }))
}

// --- the buttons

const actions = {
  add: shop => addProducts(shop, BURST), visit: shop => visit(shop, 1), visits: shop => visit(shop, VISITS),
  login: logIn, logout: logOut, race: logOutWhileAdding,
}
for (const [id, action] of Object.entries(actions)) byId(id).addEventListener('click', () => act(action))
for (const input of document.querySelectorAll('input')) input.addEventListener('change', () => enter(input.value))
enter('guarded')
